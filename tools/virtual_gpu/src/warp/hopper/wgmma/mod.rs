//! Warpgroup products: `wgmma.mma_async` with its fence, groups and waits (PTX ISA, "Asynchronous warpgroup-level matrix
//! instructions").
//!
//! Each of the four warps computes its 16 of the 64 rows. Between the instruction and the wait for its group the product is
//! *in flight*: the accumulators live here and their registers hold a pattern that is no number, so that whoever looks too
//! early computes with nonsense; products on the same accumulators may follow one another. The operands in shared memory are
//! read when the instruction is issued or when it is waited for, whichever the schedule says: a program must be right either
//! way.

mod descriptor;

use super::warpgroup::in_step;
use crate::warp::tensor::sums::{Accumulator, Columns, Operand, Rows, accumulate};
use crate::warp::tensor::{gather_a, gather_c, scatter_d};
use crate::warp::*;
use descriptor::{Descriptor, Major};
use std::collections::VecDeque;

/// What a `wgmma.mma_async` computes, in `Inst::imm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    pub operand: Operand,
    pub accumulator: Accumulator,
    pub a_in_registers: bool,
    /// Whether A's or B's elements change their sign.
    pub negated: [bool; 2],
    /// Whether A or B is MN-major.
    pub transposed: [bool; 2],
}

impl Form {
    /// The form's bits.
    pub fn pack(self) -> i64 {
        let operand = match self.operand {
            Operand::F16 => 0,
            Operand::Bf16 => 1,
            Operand::Tf32 => 2,
        };
        let flags = [
            self.accumulator == Accumulator::F16,
            self.a_in_registers,
            self.negated[0],
            self.negated[1],
            self.transposed[0],
            self.transposed[1],
        ];
        flags.iter().enumerate().fold(operand, |bits, (k, &flag)| bits | (flag as i64) << (2 + k))
    }

    fn unpack(bits: i64) -> Form {
        let flag = |k: u32| bits >> (2 + k) & 1 != 0;
        Form {
            operand: [Operand::F16, Operand::Bf16, Operand::Tf32][(bits & 3) as usize],
            accumulator: if flag(0) { Accumulator::F16 } else { Accumulator::F32 },
            a_in_registers: flag(1),
            negated: [flag(2), flag(3)],
            transposed: [flag(4), flag(5)],
        }
    }

    /// Registers of the accumulators of 8 columns.
    pub fn registers_of_8_columns(self) -> usize {
        if self.accumulator == Accumulator::F16 { 2 } else { 4 }
    }

    fn majors(self) -> [Major; 2] {
        self.transposed.map(|transposed| if transposed { Major::Mn } else { Major::K })
    }
}

/// Factors of a product as a warp needs them: its 16 rows of A, and B in blocks of 8 columns.
enum Factors {
    Long(Box<Rows<16>>, Vec<Columns<16>>),
    Short(Box<Rows<8>>, Vec<Columns<8>>),
}

/// A, from registers (read at the issue) or to be read from shared memory.
enum SourceOfA {
    Registers(Box<[[u32; 32]; 4]>),
    Shared(Chunks),
}

/// Rows of A or columns of B in shared memory.
struct Chunks {
    major: Major,
    /// Rows or columns.
    count: usize,
    /// The addresses of 16 bytes each, row by row of the layout.
    addresses: Vec<u32>,
}

/// A product that nobody has waited for.
struct Product {
    form: Form,
    a: SourceOfA,
    b: Chunks,
    /// Whether what the accumulators hold is added.
    accumulating: bool,
    /// Groups that the warp had committed before.
    group: u32,
    factors: Option<Factors>,
}

/// Accumulators with products in flight.
pub struct InFlight {
    registers: Vec<u32>,
    accumulator: Accumulator,
    /// What the registers would hold if all products so far had ended, in blocks of 8 columns.
    sums: Vec<[[f32; 8]; 16]>,
    products: VecDeque<Product>,
}

/// What the accumulators' registers hold while they are in flight.
const POISON: u32 = 0x7fff_ffff;

/// `wgmma.mma_async`. ext: D (`Inst::count`), A (`Inst::size`: 4 registers, or a descriptor), B's descriptor, the predicate
/// scale-d; imm: the `Form`.
///
/// # Safety
/// `Inst::ext` is as said, and all lanes are active.
pub unsafe fn wgmma(w: &mut Warp, i: &Inst) {
    unsafe {
        let (of_d, of_a) = (i.count as usize, i.size as usize);
        let operands = std::slice::from_raw_parts(i.ext, of_d + of_a + 2);
        let (d, rest) = operands.split_at(of_d);
        let (a, rest) = rest.split_at(of_a);
        let form = Form::unpack(i.imm);
        let [of_a_major, of_b_major] = form.majors();
        let mut shared_operands = [0; 3];
        let a = if form.a_in_registers {
            SourceOfA::Registers(Box::new(std::array::from_fn(|q| *tensor::lanes(w, a[q]))))
        } else {
            let Some(bits) = uniform(w, a[0], "the descriptor of A") else { return };
            shared_operands[0] = bits;
            let first = 16 * (w.index as usize % 4);
            SourceOfA::Shared(Chunks::new(&Descriptor::new(bits), of_a_major, form.operand, first..first + 16))
        };
        let Some(bits) = uniform(w, rest[0], "the descriptor of B") else { return };
        let columns = 8 * of_d / form.registers_of_8_columns();
        let b = Chunks::new(&Descriptor::new(bits), of_b_major, form.operand, 0..columns);
        if let SourceOfA::Shared(a) = &a
            && !a.admit(w, i)
        {
            return;
        }
        if !b.admit(w, i) {
            return;
        }
        let scale = w.pred(rest[1]);
        if scale != 0 && scale != FULL {
            let text = "wgmma: the lanes of the warp differ in scale-d".into();
            return w.fail(LAUNCH_FAILED, scale.trailing_ones().min(31), text);
        }
        shared_operands[1..].copy_from_slice(&[bits, scale as u64]);
        if !in_step(w, i, shared_operands) {
            return;
        }
        let mut product = Product { form, a, b, accumulating: scale != 0, group: w.wgroup, factors: None };
        if reads_early(w) {
            product.factors = Some(product.read(w));
        }
        launch(w, d, product);
    }
}

/// The value that all lanes have in a register of 64 bits.
unsafe fn uniform(w: &mut Warp, register: u32, what: &str) -> Option<u64> {
    let lanes = unsafe { *(w.p(register) as *const [u64; 32]) };
    match lanes.iter().position(|&x| x != lanes[0]) {
        None => Some(lanes[0]),
        Some(lane) => {
            w.fail(LAUNCH_FAILED, lane as u32, format!("wgmma: {what} differs between lanes 0 and {lane}"));
            None
        }
    }
}

/// Whether the operands of the next product are read at once, not when it is waited for: as the seed says.
unsafe fn reads_early(w: &mut Warp) -> bool {
    unsafe { (*w.env).dice.one_in(2) }
}

/// Puts a product in flight, behind others on the same accumulators.
unsafe fn launch(w: &mut Warp, d: &[u32], product: Product) {
    let accumulator = product.form.accumulator;
    if let Some(chain) = w.products.iter_mut().find(|x| x.registers == d && x.accumulator == accumulator) {
        chain.products.push_back(product);
        return;
    }
    if w.products.iter().any(|x| x.registers.iter().any(|r| d.contains(r))) {
        w.fail(LAUNCH_FAILED, 0, "wgmma: its accumulators overlap others that are in flight".into());
        return;
    }
    let blocks = d.chunks(product.form.registers_of_8_columns());
    let sums = blocks.map(|registers| unsafe { gather_c(w, registers, accumulator) }).collect();
    for &register in d {
        unsafe { w.put::<u32>(register, &[POISON; 32]) };
    }
    w.products.push(InFlight { registers: d.to_vec(), accumulator, sums, products: [product].into() });
}

/// `wgmma.fence`: orders the warp's own accesses of registers before those of later products. Registers are always in order
/// here; that the fence is where it must be is checked when a kernel is compiled.
///
/// # Safety
/// As of every instruction: it is of the warp's kernel, and the warp's block is alive.
pub unsafe fn wgmma_fence(w: &mut Warp, i: &Inst) {
    unsafe { in_step(w, i, [0; 3]) };
}

/// `setmaxnreg`: that the warpgroup executes it as one is checked; registers are not counted here. imm: the registers.
///
/// # Safety
/// As of every instruction: it is of the warp's kernel, and the warp's block is alive.
pub unsafe fn setmaxnreg(w: &mut Warp, i: &Inst) {
    unsafe { in_step(w, i, [i.imm as u64, 0, 0]) };
}

/// `wgmma.commit_group`.
///
/// # Safety
/// As of every instruction: it is of the warp's kernel, and the warp's block is alive.
pub unsafe fn wgmma_commit(w: &mut Warp, i: &Inst) {
    unsafe { in_step(w, i, [0; 3]) };
    w.wgroup += 1;
}

/// `wgmma.wait_group`. imm: the youngest groups that may stay in flight.
///
/// # Safety
/// As of every instruction: it is of the warp's kernel, and the warp's block is alive.
pub unsafe fn wgmma_wait(w: &mut Warp, i: &Inst) {
    unsafe { in_step(w, i, [0; 3]) };
    let ended_before = w.wgroup.saturating_sub(i.imm as u32);
    let mut all = std::mem::take(&mut w.products);
    for chain in &mut all {
        unsafe { chain.end(w, ended_before) };
    }
    all.retain(|chain| !chain.products.is_empty());
    w.products = all;
    let warp = w.index;
    if let Some(guard) = &mut w.env().guard {
        guard.products_done(warp, ended_before);
    }
}

impl InFlight {
    /// Ends the products of the groups before one; without others behind them, their sums return into the registers.
    unsafe fn end(&mut self, w: &mut Warp, group: u32) {
        while self.products.front().is_some_and(|product| product.group < group) {
            let product = self.products.pop_front().expect("it was there");
            unsafe { product.add_to(w, &mut self.sums) };
        }
        if self.products.is_empty() {
            let blocks = self.registers.chunks(self.registers.len() / self.sums.len());
            for (registers, sums) in blocks.zip(&self.sums) {
                unsafe { scatter_d(w, registers, sums, self.accumulator) };
            }
        }
    }
}

impl Product {
    unsafe fn add_to(mut self, w: &mut Warp, sums: &mut [[[f32; 8]; 16]]) {
        let factors = self.factors.take().unwrap_or_else(|| unsafe { self.read(w) });
        if !self.accumulating {
            sums.fill([[0.0; 8]; 16]);
        }
        let (operand, accumulator) = (self.form.operand, self.form.accumulator);
        match factors {
            Factors::Long(a, b) => {
                b.iter().zip(sums).for_each(|(b, c)| accumulate(&a, b, c, operand, accumulator));
            }
            Factors::Short(a, b) => {
                b.iter().zip(sums).for_each(|(b, c)| accumulate(&a, b, c, operand, accumulator));
            }
        }
    }

    /// Reads the operands.
    unsafe fn read(&self, w: &Warp) -> Factors {
        unsafe {
            match self.form.operand {
                Operand::Tf32 => {
                    let (a, b) = self.read_elements::<8>(w);
                    Factors::Short(a, b)
                }
                _ => {
                    let (a, b) = self.read_elements::<16>(w);
                    Factors::Long(a, b)
                }
            }
        }
    }

    unsafe fn read_elements<const K: usize>(&self, w: &Warp) -> (Box<Rows<K>>, Vec<Columns<K>>) {
        let Form { operand, negated, .. } = self.form;
        let mut a = [[0f32; K]; 16];
        match &self.a {
            SourceOfA::Registers(registers) => a = gather_a(registers.iter(), operand),
            SourceOfA::Shared(chunks) => a.copy_from_slice(&unsafe { chunks.read::<K>(w, operand) }),
        }
        let b = unsafe { self.b.read::<K>(w, operand) };
        let sign = negated.map(|negated| if negated { -1.0 } else { 1.0 });
        let rows = Rows::new(a.map(|row| row.map(|x| sign[0] * x)), operand);
        let columns = b.chunks(8).map(|block| {
            let values = std::array::from_fn(|k| std::array::from_fn(|n| sign[1] * block[n][k]));
            Columns::new(values, operand)
        });
        (Box::new(rows), columns.collect())
    }
}

impl Chunks {
    /// The chunks of some rows of A or columns of B, `mn`.
    fn new(descriptor: &Descriptor, major: Major, operand: Operand, mn: std::ops::Range<usize>) -> Chunks {
        let in_chunk = elements_of_chunk(operand);
        let count = mn.len();
        // 32 bytes along K: two chunks, or 16 elements of 16 bits.
        let (rows, chunks) = match major {
            Major::K => (mn, 0..2),
            Major::Mn => (0..2 * in_chunk, mn.start / in_chunk..mn.end / in_chunk),
        };
        let of_row = |row: usize| chunks.clone().map(move |chunk| descriptor.chunk(major, row as u32, chunk as u32));
        Chunks { major, count, addresses: rows.flat_map(of_row).collect() }
    }

    /// Whether all of them can be read: a fault names one that cannot.
    unsafe fn admit(&self, w: &mut Warp, i: &Inst) -> bool {
        let by = By::Product { group: w.wgroup + 1 };
        self.addresses.chunks(32).all(|part| {
            let addresses: [u32; 32] = std::array::from_fn(|lane| part[lane.min(part.len() - 1)]);
            let lanes = FULL >> (32 - part.len());
            let access = Access { by, ..Access::new(Space::Shared, Action::Read, lanes, &addresses, 16) };
            unsafe { admit(w, i, &access) }
        })
    }

    /// Their elements, each row of A or column of B `K` long.
    ///
    /// # Safety
    /// They have been admitted.
    unsafe fn read<const K: usize>(&self, w: &Warp, operand: Operand) -> Vec<[f32; K]> {
        let (parts, in_chunk) = (operand.per_register(), elements_of_chunk(operand));
        let base = unsafe { (*w.env).shared.as_ptr() };
        let mut elements = vec![[0f32; K]; self.count];
        let in_row = if self.major == Major::K { 2 } else { self.count / in_chunk };
        for (number, &address) in self.addresses.iter().enumerate() {
            let (row, chunk) = (number / in_row, number % in_row);
            let words: [u32; 4] =
                unsafe { (base.add((address - SHARED_BASE) as usize) as *const [u32; 4]).read_unaligned() };
            for t in 0..in_chunk {
                let value = operand.value(words[t / parts], t % parts);
                match self.major {
                    Major::K => elements[row][chunk * in_chunk + t] = value,
                    Major::Mn => elements[chunk * in_chunk + t][row] = value,
                }
            }
        }
        elements
    }
}

/// Elements in the 16 bytes of a chunk.
fn elements_of_chunk(operand: Operand) -> usize {
    4 * operand.per_register()
}
