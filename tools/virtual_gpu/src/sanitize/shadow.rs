//! What is known of each byte of memory: whether anybody wrote it, who wrote it last in which launch, who has read it since.

/// One access: whose, when, and by which instruction.
#[derive(Clone, Copy, Default, Debug)]
pub struct Touch {
    /// Launch (28 bits), block (24 bits), agent (12 bits); 0: nobody.
    who: u64,
    pub time: u32,
    /// The instruction, and whether it was atomic.
    how: u32,
}

const ATOMIC: u32 = 1 << 31;
const AGENT: u64 = 0xfff;
const BLOCK: u64 = 0xff_ffff;

impl Touch {
    pub fn new(launch: u64, block: u64, agent: u32, time: u32, pc: u32, atomic: bool) -> Self {
        let who = launch << 36 | (block & BLOCK) << 12 | agent as u64 & AGENT;
        Touch { who, time, how: pc | if atomic { ATOMIC } else { 0 } }
    }
    pub fn agent(&self) -> u32 {
        (self.who & AGENT) as u32
    }
    pub fn block(&self) -> u64 {
        self.who >> 12 & BLOCK
    }
    pub fn atomic(&self) -> bool {
        self.how & ATOMIC != 0
    }
    pub fn pc(&self) -> u32 {
        self.how & !ATOMIC
    }
    pub fn same_launch(&self, other: &Touch) -> bool {
        self.who >> 36 == other.who >> 36
    }
    pub fn same_block(&self, other: &Touch) -> bool {
        self.who >> 12 == other.who >> 12
    }
    /// Whether a block of a launch did it that has this number in its grid.
    pub fn of_block(&self, block: u64) -> bool {
        self.block() == block & BLOCK
    }
    pub fn of_launch(&self, launch: u64) -> bool {
        self.who >> 36 == launch
    }
    pub fn same_agent(&self, other: &Touch) -> bool {
        self.who == other.who
    }
}

/// The last plain write of a unit of memory, the last atomic one behind it, and two reads since: the last, and the last of another
/// warp that was not ordered before it.
#[derive(Clone, Copy, Default)]
pub struct Cell {
    pub write: Touch,
    pub atomic: Touch,
    pub reads: [Touch; 2],
}

const PAGE: u64 = 4096;

/// Shadow of 4 KiB. The unit of a cell is 4 bytes, or less from the first narrower access on.
struct Page {
    unit_log: u32,
    cells: Vec<Cell>,
    /// One bit a byte: somebody wrote it.
    written: [u64; PAGE as usize / 64],
}

impl Page {
    fn new() -> Box<Page> {
        Box::new(Page { unit_log: 2, cells: vec![], written: [0; PAGE as usize / 64] })
    }
    /// Makes cells as narrow as the ends of `[offset, offset + bytes)` need.
    fn narrow(&mut self, offset: u64, bytes: u64) {
        if self.cells.is_empty() {
            self.cells = vec![Cell::default(); PAGE as usize >> self.unit_log];
        }
        let needed = (offset | bytes | 4).trailing_zeros();
        if needed < self.unit_log {
            let copies = 1 << (self.unit_log - needed);
            self.cells = self.cells.iter().flat_map(|cell| std::iter::repeat_n(*cell, copies)).collect();
            self.unit_log = needed;
        }
    }
    fn cells(&mut self, offset: u64, bytes: u64) -> &mut [Cell] {
        &mut self.cells[(offset >> self.unit_log) as usize..((offset + bytes) >> self.unit_log) as usize]
    }
    fn unit(&self) -> u64 {
        1 << self.unit_log
    }
}

/// The shadow of one allocation, or of a block's shared memory.
pub struct Shadow {
    start: u64,
    bytes: u64,
    pages: Vec<Option<Box<Page>>>,
}

impl Shadow {
    pub fn new(start: u64, bytes: u64) -> Self {
        let mut pages = vec![];
        pages.resize_with(bytes.div_ceil(PAGE) as usize, || None);
        Shadow { start, bytes, pages }
    }

    /// Splits `[address, address + bytes)` at pages: the page and the offset and bytes in it.
    fn parts(&self, address: u64, bytes: u64) -> impl Iterator<Item = (usize, u64, u64)> + use<> {
        let (mut from, to) = (address - self.start, (address - self.start + bytes).min(self.bytes));
        std::iter::from_fn(move || {
            if from >= to {
                return None;
            }
            let page = from / PAGE;
            let n = (to - from).min((page + 1) * PAGE - from);
            let part = (page as usize, from % PAGE, n);
            from += n;
            Some(part)
        })
    }
    fn page(&mut self, n: usize) -> &mut Page {
        self.pages[n].get_or_insert_with(Page::new)
    }

    /// Calls `each` with the address and the cell of every unit of `[address, address + bytes)`.
    pub fn visit(&mut self, address: u64, bytes: u64, mut each: impl FnMut(u64, &mut Cell)) {
        for (page, offset, n) in self.parts(address, bytes) {
            let at = self.start + page as u64 * PAGE + offset;
            let page = self.page(page);
            page.narrow(offset, n);
            let unit = page.unit();
            for (k, cell) in page.cells(offset, n).iter_mut().enumerate() {
                each(at + k as u64 * unit, cell);
            }
        }
    }

    /// Calls `each` with every cell that has been touched.
    pub fn visit_touched(&self, each: impl FnMut(&Cell)) {
        self.pages.iter().flatten().flat_map(|page| &page.cells).for_each(each);
    }

    /// Says that somebody wrote these bytes.
    pub fn mark(&mut self, address: u64, bytes: u64) {
        for (page, offset, n) in self.parts(address, bytes) {
            set_bits(&mut self.page(page).written, offset, n);
        }
    }
    /// The first byte of these that nobody wrote. `used` has a bit of each that counts, or is 0: all.
    pub fn unwritten(&self, address: u64, bytes: u64, used: u32) -> Option<u64> {
        for (page, offset, n) in self.parts(address, bytes) {
            let written = self.pages[page].as_ref().map(|p| &p.written);
            if written.is_some_and(|bits| all_set(bits, offset, n)) {
                continue;
            }
            for byte in offset..offset + n {
                let at = self.start + page as u64 * PAGE + byte;
                let counts = used == 0 || used >> (at - address) & 1 != 0;
                if counts && written.is_none_or(|bits| bits[byte as usize / 64] >> (byte % 64) & 1 == 0) {
                    return Some(at);
                }
            }
        }
        None
    }
    /// Runs of bytes that somebody wrote, as offsets from `address`.
    pub fn runs(&self, address: u64, bytes: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = vec![];
        let mut add = |from: u64, n: u64| match runs.last_mut() {
            Some(last) if last.0 + last.1 == from => last.1 += n,
            _ => runs.push((from, n)),
        };
        for (page, offset, n) in self.parts(address, bytes) {
            let Some(bits) = self.pages[page].as_ref().map(|p| &p.written) else { continue };
            let first = self.start + page as u64 * PAGE + offset - address;
            if all_set(bits, offset, n) {
                add(first, n);
                continue;
            }
            for byte in (0..n).filter(|b| bits[(offset + b) as usize / 64] >> ((offset + b) % 64) & 1 != 0) {
                add(first + byte, 1);
            }
        }
        runs
    }
    /// Says that nobody wrote these bytes.
    pub fn unmark(&mut self, address: u64, bytes: u64) {
        for (page, offset, n) in self.parts(address, bytes) {
            let Some(page) = &mut self.pages[page] else { continue };
            for byte in offset..offset + n {
                page.written[byte as usize / 64] &= !(1 << (byte % 64));
            }
        }
    }
    /// Forgets who wrote what: a new block begins.
    pub fn forget(&mut self) {
        for page in self.pages.iter_mut().flatten() {
            page.written.fill(0);
        }
    }
}

fn set_bits(bits: &mut [u64], from: u64, n: u64) {
    let (mut at, end) = (from, from + n);
    while at < end {
        let here = (64 - at % 64).min(end - at);
        bits[(at / 64) as usize] |= (u64::MAX >> (64 - here)) << (at % 64);
        at += here;
    }
}

fn all_set(bits: &[u64], from: u64, n: u64) -> bool {
    let (mut at, end) = (from, from + n);
    while at < end {
        let here = (64 - at % 64).min(end - at);
        let mask = (u64::MAX >> (64 - here)) << (at % 64);
        if bits[(at / 64) as usize] & mask != mask {
            return false;
        }
        at += here;
    }
    true
}

/// One bit a byte of the local memory of a warp: lane after lane.
pub struct LocalShadow {
    bits: Vec<u64>,
    bytes: u64,
}

impl LocalShadow {
    pub fn new(bytes: usize) -> Self {
        LocalShadow { bits: vec![0; (bytes * 32).div_ceil(64) + 1], bytes: bytes as u64 }
    }
    pub fn mark(&mut self, lane: u64, address: u64, bytes: u64) {
        set_bits(&mut self.bits, lane * self.bytes + address, bytes);
    }
    pub fn unwritten(&self, lane: u64, address: u64, bytes: u64, used: u32) -> Option<u64> {
        let first = lane * self.bytes + address;
        if all_set(&self.bits, first, bytes) {
            return None;
        }
        (0..bytes)
            .find(|byte| {
                let at = first + byte;
                (used == 0 || used >> byte & 1 != 0) && self.bits[at as usize / 64] >> (at % 64) & 1 == 0
            })
            .map(|byte| address + byte)
    }
    pub fn forget(&mut self) {
        self.bits.fill(0);
    }
}
