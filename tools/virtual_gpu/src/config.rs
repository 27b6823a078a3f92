//! Settings from the environment: `VIRTUAL_GPU_*`, each documented at the head of the crate.

use crate::launch as run;
use crate::sanitize::Sanitize;
use crate::warp::tensor::sums::{Addition, Step};
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Every setting, as a process finds it at its first call of the driver.
#[derive(Debug)]
pub struct Config {
    /// The chip.
    pub arch: Arch,
    /// What a launch is told: threads, order, checks, counters.
    pub options: run::Options,
    /// Seed of every choice that a GPU leaves open; 0 takes the plainest.
    pub seed: u64,
    /// Whether a failed kernel ends the context.
    pub sticky: bool,
    /// Whether the device has memory pools.
    pub pools: bool,
    /// Whether each launch is printed.
    pub trace: bool,
    /// Whether memory, streams, events, graphs and modules left at the end of the context are reported.
    pub leaks: bool,
    /// Whether every kernel of a module is compiled when the module is loaded.
    pub eager: bool,
    /// Whether the speed of execution is printed at exit.
    pub speed: bool,
    /// Where counters go.
    pub count: Option<PathBuf>,
    /// Where the names of the kernels launched go.
    pub kernels: Option<PathBuf>,
    /// PTX that takes the place of the module that has its first entry.
    pub ptx: Option<PathBuf>,
    /// Memory of the device, bytes.
    pub memory: usize,
    /// How tensor cores add, where it is not as the chip does.
    pub tensor_step: Option<Step>,
    /// Whether the `.approx` instructions err as far as they may.
    pub approximate_error: bool,
}

/// The chips there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arch {
    /// Compute capability 8.0: an A100.
    Sm80,
    /// Compute capability 9.0 with the instructions of that chip alone: an H200.
    Sm90a,
}

impl Arch {
    /// Ten times the compute capability.
    pub fn capability(self) -> u32 {
        match self {
            Arch::Sm80 => 80,
            Arch::Sm90a => 90,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Config {
            arch: Arch::Sm80,
            options: run::Options { threads, sanitize: Sanitize::Off, sample: 0, seed: 0 },
            seed: 0,
            sticky: true,
            pools: true,
            trace: false,
            leaks: false,
            eager: false,
            speed: false,
            count: None,
            kernels: None,
            ptx: None,
            memory: 6144 << 20,
            tensor_step: None,
            approximate_error: false,
        }
    }
}

impl Config {
    /// The settings among `variables`, or what is wrong with them.
    pub fn parse(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let mut config = Config::default();
        for (name, value) in variables {
            if let Some(setting) = name.strip_prefix("VIRTUAL_GPU_") {
                config.set(setting, &value).map_err(|problem| format!("{name}={value}: {problem}"))?;
            } else if name.starts_with("VGPU_") {
                return Err(format!("{name}: settings of the virtual GPU are named VIRTUAL_GPU_*"));
            }
        }
        config.options.seed = config.seed;
        Ok(config)
    }

    fn set(&mut self, setting: &str, value: &str) -> Result<(), String> {
        match setting {
            "ARCH" => self.arch = arch(value)?,
            "SEED" => self.seed = number(value)?,
            "THREADS" => self.options.threads = number(value)?.max(1) as usize,
            "MEMORY" => self.memory = (number(value)? as usize) << 20,
            "SANITIZE" => self.sanitize(value)?,
            "STICKY" => self.sticky = switch(value)?,
            "POOLS" => self.pools = switch(value)?,
            "TRACE" => self.trace = switch(value)?,
            "EAGER" => self.eager = switch(value)?,
            "SPEED" => self.speed = switch(value)?,
            "COUNT" => self.count = Some(file(value)?),
            "KERNELS" => self.kernels = Some(file(value)?),
            "PTX" => self.ptx = Some(file(value)?),
            "SAMPLE" => self.options.sample = number(value)?,
            "TENSOR_STEP" => self.tensor_step = Some(Step::parse(value)?),
            "APPROXIMATE_ERROR" => self.approximate_error = switch(value)?,
            _ => {
                const KNOWN: &str = "ARCH, SEED, THREADS, MEMORY, SANITIZE, STICKY, POOLS, TRACE, EAGER, SPEED, COUNT, KERNELS, PTX, SAMPLE, TENSOR_STEP and APPROXIMATE_ERROR";
                return Err(format!("there is no such setting; there are {KNOWN}"));
            }
        }
        Ok(())
    }

    fn sanitize(&mut self, value: &str) -> Result<(), String> {
        let list: Vec<&str> = value.split(',').collect();
        if let Some(check) = list.iter().find(|check| !["all", "none", "memory", "leaks", "fail"].contains(check)) {
            return Err(format!(
                "there is no check `{check}`; choose all, none, or some of memory and leaks, and `fail` to fail"
            ));
        }
        let asked = |check| list.contains(&"all") || list.contains(&check);
        self.leaks = asked("leaks");
        self.options.sanitize = match (asked("memory"), list.contains(&"fail")) {
            (false, _) => Sanitize::Off,
            (true, false) => Sanitize::Report,
            (true, true) => Sanitize::Fail,
        };
        Ok(())
    }
}

fn arch(value: &str) -> Result<Arch, String> {
    match value {
        "80" => Ok(Arch::Sm80),
        "90a" => Ok(Arch::Sm90a),
        _ => Err("choose 80 or 90a".into()),
    }
}

fn number(value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| "give a whole number".into())
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("choose 0 or 1".into()),
    }
}

fn file(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("name a file".into()) } else { Ok(value.into()) }
}

/// The settings of this process, or what is wrong with them.
pub fn settings() -> &'static Result<Config, String> {
    static SETTINGS: OnceLock<Result<Config, String>> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let config = Config::parse(variables)?;
        Addition::of(config.arch.capability(), config.tensor_step).select();
        APPROXIMATIONS_ERR.store(config.approximate_error, Ordering::Relaxed);
        print_at_exit();
        Ok(config)
    })
}

/// The settings of this process.
///
/// # Panics
/// Where they are wrong: `cuInit` has then said so and failed.
pub fn config() -> &'static Config {
    settings().as_ref().unwrap_or_else(|problem| panic!("{problem}"))
}

/// The PTX that runs in the place of a module's: the file that the settings name, if the module has its first entry.
pub fn replaced(text: String) -> String {
    let Some(file) = &config().ptx else { return text };
    let other = match std::fs::read_to_string(file) {
        Ok(other) => other,
        Err(e) => {
            eprintln!("virtual_gpu: {}: {e}; the module runs as it is", file.display());
            return text;
        }
    };
    let first = other.split_once(".entry ").map(|(_, rest)| rest.split('(').next().unwrap_or_default());
    match first {
        Some(entry) if text.contains(&format!(".entry {entry}(")) => other,
        _ => text,
    }
}

/// How a process ends in which the sanitizer found something and was to fail.
const FOUND: c_int = 86;

/// Has what was counted printed when the process ends.
fn print_at_exit() {
    unsafe extern "C" {
        fn atexit(call: extern "C" fn()) -> c_int;
        fn _exit(code: c_int) -> !;
    }
    extern "C" fn print() {
        let config = config();
        crate::count::at_exit();
        if config.speed {
            print_speed();
        }
        crate::driver::at_exit();
        if config.options.sanitize == Sanitize::Fail && crate::sanitize::count() > 0 {
            eprintln!("virtual_gpu: {} findings of the sanitizer, said above", crate::sanitize::count());
            // Safety: it takes a number and does not return.
            unsafe { _exit(FOUND) };
        }
    }
    // Safety: the function takes nothing and stays loaded: the library is never unloaded once used.
    unsafe { atexit(print) };
}

fn print_speed() {
    let [lanes, warps, nanoseconds, launches] =
        [&run::LANES, &run::WARPS, &run::NANOS, &run::LAUNCHES].map(|n| n.load(Ordering::Relaxed));
    eprintln!(
        "virtual_gpu: {launches} launches, {warps} warp and {lanes} lane instructions in {:.3} s of launches: {:.1} M lane instructions per second",
        nanoseconds as f64 * 1e-9,
        lanes as f64 / (nanoseconds as f64 * 1e-3).max(1.0)
    );
}

/// Whether the `.approx` instructions err as far as they may.
pub static APPROXIMATIONS_ERR: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<Config, String> {
        Config::parse(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }

    #[test]
    fn settings_are_read_by_name_and_others_variables_are_not_looked_at() {
        let config = parsed(&[
            ("PATH", "/bin"),
            ("VIRTUAL_GPU_ARCH", "90a"),
            ("VIRTUAL_GPU_SEED", "7"),
            ("VIRTUAL_GPU_THREADS", "3"),
            ("VIRTUAL_GPU_MEMORY", "64"),
            ("VIRTUAL_GPU_SANITIZE", "memory,fail"),
            ("VIRTUAL_GPU_COUNT", "counts.json"),
        ])
        .unwrap();
        assert_eq!(config.arch, Arch::Sm90a);
        assert_eq!((config.seed, config.options.threads, config.memory), (7, 3, 64 << 20));
        assert_eq!((config.options.sanitize, config.leaks), (Sanitize::Fail, false));
        assert!(config.count.is_some());
    }

    #[test]
    fn what_is_not_set_is_as_on_a_gpu() {
        let config = parsed(&[]).unwrap();
        assert_eq!(config.arch.capability(), 80);
        assert!(config.sticky && config.pools);
        assert!(config.options.sanitize == Sanitize::Off && config.count.is_none() && config.options.sample == 0);
    }

    #[test]
    fn unknown_names_and_values_are_refused_with_the_choices() {
        let problem = |name, value| parsed(&[(name, value)]).unwrap_err();
        assert!(problem("VIRTUAL_GPU_ORDER", "1").contains("there is no such setting; there are ARCH, SEED"));
        assert_eq!(problem("VIRTUAL_GPU_ARCH", "86"), "VIRTUAL_GPU_ARCH=86: choose 80 or 90a");
        assert!(problem("VIRTUAL_GPU_SANITIZE", "race").contains("there is no check `race`"));
        assert_eq!(problem("VIRTUAL_GPU_TRACE", "yes"), "VIRTUAL_GPU_TRACE=yes: choose 0 or 1");
        assert_eq!(problem("VIRTUAL_GPU_SEED", "-1"), "VIRTUAL_GPU_SEED=-1: give a whole number");
        assert!(problem("VGPU_CC", "90").contains("named VIRTUAL_GPU_*"));
    }
}
