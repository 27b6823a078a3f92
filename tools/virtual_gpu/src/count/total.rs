//! What launches of a kernel add up to, and what a chip allows them.

use super::class::{CLASSES, Class, NAMES};
use super::json::Object;
use super::machine::{Door, Site, Traffic};
use crate::profile::Profile;
use std::collections::BTreeMap;

/// One launch, as far as it was run.
#[derive(Default)]
pub struct Counted {
    pub kernel: String,
    /// Blocks of the launch, and those that were run.
    pub blocks: u64,
    pub blocks_run: u64,
    pub threads: u32,
    pub shared: u32,
    pub registers: Option<u32>,
    /// Blocks that one multiprocessor holds.
    pub resident: u32,
    /// Instructions on the longest way through a block: at a barrier all wait for the warp that had the most before it.
    pub critical_path: u64,
    pub classes: [u64; CLASSES],
    pub lanes: u64,
    pub shapes: BTreeMap<String, u64>,
    /// Floating-point operations of tensor cores on 16-bit operands, and on TF32.
    pub half: u64,
    pub tf32: u64,
    /// Sectors of the blocks that were run, but for those read from memory, which are the whole launch's.
    pub traffic: Traffic,
    pub sites: Vec<(String, Site)>,
}

impl Counted {
    /// The whole launch's blocks over those that were run.
    fn scale(&self) -> f64 {
        self.blocks as f64 / self.blocks_run.max(1) as f64
    }

    /// Bytes between L2 and memory of the whole launch.
    pub fn dram_bytes(&self) -> f64 {
        (self.traffic.dram_read as f64 + self.traffic.dram_written as f64 * self.scale()) * 32.0
    }
}

/// What bounds a launch from below, each in seconds.
const LIMITS: [&str; 8] = ["dram", "issue", "f32", "f64", "sfu", "mma", "shared", "l2"];
/// The limits that the bound of the whole chip takes; the bound by blocks takes L2 as well.
const OF_CHIP: usize = 7;

#[derive(Clone, Copy, Default)]
struct Requests {
    requests: f64,
    bytes: f64,
    taken: f64,
    ideal: f64,
}

impl Requests {
    fn add(&mut self, site: &Site, scale: f64) {
        self.requests += site.requests as f64 * scale;
        self.bytes += site.bytes as f64 * scale;
        self.taken += site.taken as f64 * scale;
        self.ideal += site.ideal() as f64 * scale;
    }
    /// Sectors or wavefronts of a request: taken and ideal.
    fn each(&self) -> [f64; 2] {
        [self.taken, self.ideal].map(|n| if self.requests > 0.0 { n / self.requests } else { 0.0 })
    }
}

/// Launches of one kernel, scaled from the blocks that were run to all.
#[derive(Default)]
pub struct Total {
    launches: u64,
    blocks: u64,
    blocks_run: u64,
    threads: u32,
    shared: u32,
    registers: Option<u32>,
    resident: u32,
    critical_path: u64,
    classes: [f64; CLASSES],
    lanes: f64,
    shapes: BTreeMap<String, f64>,
    mma: f64,
    l1_hits: f64,
    l2: f64,
    dram_read: f64,
    dram_written: f64,
    limits: [f64; LIMITS.len()],
    by_blocks: f64,
    places: BTreeMap<(Door, String), Requests>,
}

impl Total {
    pub fn add(&mut self, launch: Counted, chip: &Profile) {
        let scale = launch.scale();
        self.launches += 1;
        self.blocks += launch.blocks;
        self.blocks_run += launch.blocks_run;
        self.threads = launch.threads;
        self.shared = launch.shared;
        self.registers = launch.registers;
        self.resident = launch.resident;
        self.critical_path = self.critical_path.max(launch.critical_path);
        self.lanes += launch.lanes as f64 * scale;
        self.mma += (launch.half + launch.tf32) as f64 * scale;
        (0..CLASSES).for_each(|class| self.classes[class] += launch.classes[class] as f64 * scale);
        for (shape, count) in &launch.shapes {
            *self.shapes.entry(shape.clone()).or_default() += *count as f64 * scale;
        }
        self.l1_hits += launch.traffic.l1_hits as f64 * scale;
        self.l2 += launch.traffic.l2 as f64 * scale;
        self.dram_read += launch.traffic.dram_read as f64;
        self.dram_written += launch.traffic.dram_written as f64 * scale;
        for (place, site) in &launch.sites {
            self.places.entry((site.door, place.clone())).or_default().add(site, scale);
        }
        let multiprocessors = chip.multiprocessors as f64;
        let whole = limits(&launch, chip, multiprocessors);
        (0..LIMITS.len()).for_each(|n| self.limits[n] += whole[n]);
        let by_blocks = limits(&launch, chip, multiprocessors.min(launch.blocks as f64));
        self.by_blocks += by_blocks.into_iter().fold(0.0, f64::max);
    }

    fn requests(&self, wanted: impl Fn(Door) -> bool) -> Requests {
        let mut sum = Requests::default();
        for ((_, _), one) in self.places.iter().filter(|((door, _), _)| wanted(*door)) {
            sum.requests += one.requests;
            sum.bytes += one.bytes;
            sum.taken += one.taken;
            sum.ideal += one.ideal;
        }
        sum
    }

    /// The row of a kernel as one JSON object.
    pub fn row(&self, kernel: &str, chip: &Profile) -> String {
        let instructions: f64 = self.classes.iter().sum();
        let global = self.requests(|door| !door.shared());
        let shared = self.requests(Door::shared);
        let [sectors, sectors_ideal] = global.each();
        let [waves, waves_ideal] = shared.each();
        let bounds = &self.limits[..OF_CHIP];
        let at = (0..OF_CHIP).max_by(|a, b| bounds[*a].total_cmp(&bounds[*b])).expect("there are limits");
        let warps = self.resident * self.threads.div_ceil(32);
        let mut row = Object::new();
        row.text("kernel", kernel).text("chip", chip.product);
        row.whole("launches", self.launches as f64).whole("blocks", self.blocks as f64);
        row.number("sampled_share", self.blocks_run as f64 / self.blocks.max(1) as f64);
        row.whole("warp_instructions", instructions);
        row.object("instructions", |classes| {
            for (name, count) in NAMES.iter().zip(self.classes).filter(|(_, count)| *count > 0.0) {
                classes.whole(name, count);
            }
        });
        row.object("mma_shapes", |shapes| {
            for (shape, count) in &self.shapes {
                shapes.whole(shape, *count);
            }
        });
        row.whole("mma_flops", self.mma);
        row.number("active_lanes", self.lanes / instructions.max(1.0));
        row.whole("global_requests", global.requests);
        row.number("sectors_per_request", sectors).number("sectors_ideal", sectors_ideal);
        row.whole("bytes_asked", global.bytes).whole("bytes_moved", self.l2 * 32.0);
        row.whole("l1_hit_bytes", self.l1_hits * 32.0);
        row.whole("dram_bytes", (self.dram_read + self.dram_written) * 32.0);
        row.whole("dram_read_bytes", self.dram_read * 32.0).whole("dram_written_bytes", self.dram_written * 32.0);
        row.whole("shared_requests", shared.requests).whole("wavefronts", shared.taken);
        row.number("wavefronts_per_request", waves).number("wavefronts_ideal", waves_ideal);
        row.whole("barriers", self.classes[Class::Barrier as usize]);
        row.whole("critical_path", self.critical_path as f64);
        row.whole("blocks_per_multiprocessor", self.resident as f64);
        row.number("occupancy", warps as f64 * 32.0 / chip.threads as f64);
        match self.registers {
            Some(registers) => row.whole("registers", registers as f64),
            None => row.text("registers", "unknown"),
        };
        row.whole("shared_bytes", self.shared as f64);
        row.number("bound_us", bounds[at] * 1e6).text("bound_by", LIMITS[at]);
        row.number("bound_blocks_us", self.by_blocks * 1e6);
        row.list("worst", |list| {
            self.worst().for_each(|((door, place), one)| {
                let [taken, ideal] = one.each();
                let mut object = Object::new();
                object.text("what", door.name()).text("place", place).whole("requests", one.requests);
                object.number("each", taken).number("ideal", ideal);
                list.push(object.end());
            })
        });
        row.end()
    }

    /// Source lines that take more than their ideal, those first that lose the most.
    fn worst(&self) -> impl Iterator<Item = (&(Door, String), &Requests)> {
        let mut losing: Vec<_> = self.places.iter().filter(|(_, one)| one.taken > one.ideal * 1.001).collect();
        losing.sort_by(|a, b| (b.1.taken - b.1.ideal).total_cmp(&(a.1.taken - a.1.ideal)));
        losing.into_iter().take(6)
    }
}

/// Seconds that each limit allows a launch on so many multiprocessors.
fn limits(launch: &Counted, chip: &Profile, multiprocessors: f64) -> [f64; LIMITS.len()] {
    let scale = launch.scale();
    let clocks = multiprocessors * chip.clock / scale;
    let part = multiprocessors / chip.multiprocessors as f64 / scale;
    let class = |class: Class| launch.classes[class as usize] as f64;
    let instructions: u64 = launch.classes.iter().sum();
    let waves: u64 = launch.sites.iter().filter(|(_, site)| site.door.shared()).map(|(_, site)| site.taken).sum();
    [
        launch.dram_bytes() / chip.dram_rate,
        instructions as f64 / (chip.issue * clocks),
        (class(Class::Fma) + class(Class::OtherF32)) / (chip.f32_rate * clocks),
        class(Class::F64) / (chip.f64_rate * clocks),
        class(Class::Special) / (chip.sfu_rate * clocks),
        launch.half as f64 / (chip.half_rate * part) + launch.tf32 as f64 / (chip.tf32_rate * part),
        waves as f64 / clocks,
        launch.traffic.l2 as f64 * 32.0 / (chip.l2_rate * part),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(blocks: u64, blocks_run: u64) -> Counted {
        let mut launch = Counted { blocks, blocks_run, threads: 256, resident: 8, ..Counted::default() };
        launch.classes[Class::Fma as usize] = 1_000_000;
        launch.classes[Class::Special as usize] = 400_000;
        launch.traffic = Traffic { l1_hits: 0, l2: 1000, dram_read: 2000, dram_written: 500 };
        launch
    }

    #[test]
    fn the_scarcest_rate_bounds() {
        let chip = Profile::of(90);
        let all = limits(&launch(1000, 1000), chip, 132.0);
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
        close(all[0], 2500.0 * 32.0 / 4.3e12);
        close(all[1], 1.4e6 / (132.0 * 4.0 * 1.98e9));
        close(all[4], 0.4e6 / (132.0 * 0.5 * 1.98e9));
        let one = limits(&launch(1, 1), chip, 1.0);
        close(one[4] / all[4], 132.0);
        close(one[0], all[0]);
    }

    #[test]
    fn a_sample_stands_for_all_blocks() {
        let chip = Profile::of(90);
        let (half, all) = (limits(&launch(20, 10), chip, 20.0), limits(&launch(10, 10), chip, 20.0));
        for n in 1..LIMITS.len() {
            assert!((half[n] - 2.0 * all[n]).abs() <= 1e-12 * all[n], "{}", LIMITS[n]);
        }
        let mut total = Total::default();
        total.add(launch(20, 10), chip);
        let row = total.row("one", chip);
        assert!(row.contains("\"warp_instructions\":2800000,"), "{row}");
        assert!(row.contains("\"dram_bytes\":96000,"), "{row}");
        assert!(row.contains("\"bound_by\":\"sfu\""), "{row}");
    }
}
