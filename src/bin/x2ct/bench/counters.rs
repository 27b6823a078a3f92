//! `x2ct bench --count`: what the virtual GPU counts of each case, kernel by kernel. Nothing here is a time.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use x2ct::{Device, Error};

use super::cases::Case;
use crate::terminal::print_table;

/// What one kernel of a case asks of the chip, and what the chip's rates allow it.
#[derive(Serialize, Deserialize)]
pub struct Counted {
    #[serde(default)]
    pub family: String,
    #[serde(default)]
    pub case: String,
    /// Bytes that the whole case must move: every input read once, every output written once.
    #[serde(default)]
    case_bytes: u64,
    pub kernel: String,
    warp_instructions: u64,
    dram_bytes: u64,
    /// Sectors of 32 bytes of a request to global memory, and those of the best layout of the same data.
    sectors_per_request: f64,
    sectors_ideal: f64,
    /// Wavefronts of a request to shared memory, and those without conflicts.
    wavefronts_per_request: f64,
    wavefronts_ideal: f64,
    /// The least time that the whole chip's rates allow, microseconds: a bound, not a time.
    bound_us: f64,
    /// The same launch by launch, over as many multiprocessors as a launch has blocks.
    bound_blocks_us: f64,
    /// The other counters, by the names that the virtual GPU gives them.
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Counted {
    /// Whether every block was run.
    fn whole(&self) -> bool {
        self.others.get("sampled_share").and_then(Value::as_f64) == Some(1.0)
    }
}

/// Functions that the virtual GPU's driver has beside a driver's.
pub struct Counters {
    #[cfg(feature = "cuda")]
    driver: libloading::Library,
}

const HOW: &str = "run it as `tools/virtual_gpu.sh x2ct bench --count --device cuda:0`";

impl Counters {
    /// The counters of a device, which the virtual GPU alone has.
    pub fn of(device: &Device) -> x2ct::Result<Self> {
        let refuse = || Error::argument("--count", format!("{} cannot count", device.name()), HOW);
        if device.is_host() {
            return Err(refuse());
        }
        #[cfg(feature = "cuda")]
        {
            // SAFETY: the driver is loaded already, so that nothing is run at its load.
            let driver = unsafe { libloading::Library::new("libcuda.so.1") }.map_err(|_| refuse())?;
            // SAFETY: the name is looked up and not called.
            let known = unsafe { driver.get::<unsafe extern "C" fn()>(b"virtualGpuCountBegin\0") }.is_ok();
            if known { Ok(Counters { driver }) } else { Err(refuse()) }
        }
        #[cfg(not(feature = "cuda"))]
        Err(refuse())
    }

    /// Runs a case once and takes what its launches counted.
    pub fn count(&self, device: &Device, case: &mut Case) -> x2ct::Result<Vec<Counted>> {
        device.synchronize()?;
        self.begin()?;
        let outcome = (case.run)();
        let launched = device.synchronize();
        let rows = self.end()?;
        launched?;
        let mut rows: Vec<Counted> = serde_json::from_slice(&rows)
            .map_err(|e| Error::argument("--count", format!("the virtual GPU's counters cannot be read: {e}"), HOW))?;
        // Of a sample the results are incomplete, and so is what a case finds of them.
        if rows.iter().all(Counted::whole) {
            outcome?;
        }
        for row in &mut rows {
            (row.family, row.case, row.case_bytes) = (case.family.into(), case.name.clone(), case.bytes);
        }
        Ok(rows)
    }

    #[cfg(feature = "cuda")]
    fn begin(&self) -> x2ct::Result<()> {
        // SAFETY: the function has this type in the virtual GPU's library, the only one that has it.
        unsafe { self.driver.get::<unsafe extern "C" fn()>(b"virtualGpuCountBegin\0").map_err(missing)?() };
        Ok(())
    }

    /// Rows as JSON text.
    #[cfg(feature = "cuda")]
    fn end(&self) -> x2ct::Result<Vec<u8>> {
        // SAFETY: the functions have these types, and the buffer is as long as the first one says.
        unsafe {
            let end = self.driver.get::<unsafe extern "C" fn() -> usize>(b"virtualGpuCountEnd\0").map_err(missing)?;
            let read = self.driver.get::<unsafe extern "C" fn(*mut u8, usize) -> usize>(b"virtualGpuCountRows\0");
            let mut rows = vec![0; end()];
            let length = read.map_err(missing)?(rows.as_mut_ptr(), rows.len());
            rows.truncate(length);
            Ok(rows)
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn begin(&self) -> x2ct::Result<()> {
        unreachable!("there are no counters without cuda")
    }
    #[cfg(not(feature = "cuda"))]
    fn end(&self) -> x2ct::Result<Vec<u8>> {
        unreachable!("there are no counters without cuda")
    }
}

#[cfg(feature = "cuda")]
fn missing(error: libloading::Error) -> Error {
    Error::argument("--count", format!("this driver has no counters: {error}"), HOW)
}

/// The rows of one family.
pub fn print_rows(rows: &[Counted]) {
    let pair = |each: f64, ideal: f64| if each > 0.0 { format!("{each:.2} of {ideal:.2}") } else { String::new() };
    let rows = rows.iter().map(|row| {
        vec![
            row.kernel.clone(),
            row.case.clone(),
            format!("{:.3}", row.warp_instructions as f64 / 1e6),
            format!("{:.3}", row.dram_bytes as f64 / 1e6),
            pair(row.sectors_per_request, row.sectors_ideal),
            pair(row.wavefronts_per_request, row.wavefronts_ideal),
            format!("{:.2}", row.bound_us),
            format!("{:.2}", row.bound_blocks_us),
        ]
    });
    let header =
        ["kernel", "case", "M instructions", "DRAM MB", "sectors", "wavefronts", "bound us", "bound by blocks us"];
    print_table(&header, &rows.collect::<Vec<_>>());
}
