//! `mma.sync`, `ldmatrix` and `stmatrix`: every shape and type against sums computed here, with the elements placed element by element as the PTX ISA's
//! figures number them (a0, a1, ... of each lane).

use crate::common::*;

/// Row and column of an element of a fragment: of lane and number.
type Place = fn(usize, usize) -> (usize, usize);

/// Where the figure of one shape has its elements: how many each lane holds of A, B and C, and where.
struct Figure {
    shape: &'static str,
    k: usize,
    rows: usize,
    counts: [usize; 3],
    places: [Place; 3],
}

// Lanes in groups of four: the group's number and the lane's number in it, as the figures have them.
fn group(lane: usize) -> usize {
    lane >> 2
}
fn in_group(lane: usize) -> usize {
    lane % 4
}

/// C and D of 16 x 8, which all shapes with 16 rows share.
fn c16(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { group(lane) } else { group(lane) + 8 }, in_group(lane) * 2 + (i & 1))
}

fn upper(lane: usize, lower: bool) -> usize {
    if lower { group(lane) + 8 } else { group(lane) }
}

const HALVES_K8: Figure = Figure {
    shape: "m16n8k8",
    k: 8,
    rows: 16,
    counts: [4, 2, 4],
    places: [|l, i| (upper(l, i >= 2), in_group(l) * 2 + (i & 1)), |l, i| (in_group(l) * 2 + i, group(l)), c16],
};

const HALVES_K16: Figure = Figure {
    shape: "m16n8k16",
    k: 16,
    rows: 16,
    counts: [8, 4, 4],
    places: [
        |l, i| (upper(l, !(i < 2 || (4..6).contains(&i))), in_group(l) * 2 + (i & 1) + if i < 4 { 0 } else { 8 }),
        |l, i| (in_group(l) * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group(l)),
        c16,
    ],
};

const TF32_K4: Figure = Figure {
    shape: "m16n8k4",
    k: 4,
    rows: 16,
    counts: [2, 1, 4],
    places: [|l, i| (upper(l, i == 1), in_group(l)), |l, _| (in_group(l), group(l)), c16],
};

const TF32_K8: Figure = Figure {
    shape: "m16n8k8",
    k: 8,
    rows: 16,
    counts: [4, 2, 4],
    places: [
        |l, i| (upper(l, i == 1 || i == 3), in_group(l) + if i < 2 { 0 } else { 4 }),
        |l, i| (in_group(l) + if i == 0 { 0 } else { 4 }, group(l)),
        c16,
    ],
};

const BYTES_K16: Figure = Figure {
    shape: "m16n8k16",
    k: 16,
    rows: 16,
    counts: [8, 4, 4],
    places: [|l, i| (upper(l, i >= 4), in_group(l) * 4 + (i & 3)), |l, i| (in_group(l) * 4 + (i & 3), group(l)), c16],
};

const BYTES_K32: Figure = Figure {
    shape: "m16n8k32",
    k: 32,
    rows: 16,
    counts: [16, 8, 4],
    places: [
        |l, i| {
            let first = i < 4 || (8..12).contains(&i);
            (upper(l, !first), in_group(l) * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
        },
        |l, i| (in_group(l) * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, group(l)),
        c16,
    ],
};

const DOUBLES: Figure = Figure {
    shape: "m8n8k4",
    k: 4,
    rows: 8,
    counts: [1, 1, 2],
    places: [
        |l, _| (group(l), in_group(l)),
        |l, _| (in_group(l), group(l)),
        |l, i| (group(l), in_group(l) * 2 + (i & 1)),
    ],
};

const DOUBLES_K16: Figure = Figure {
    shape: "m16n8k16",
    k: 16,
    rows: 16,
    counts: [8, 4, 4],
    places: [|l, i| (upper(l, i % 2 == 1), i / 2 * 4 + in_group(l)), |l, i| (i * 4 + in_group(l), group(l)), c16],
};

/// Products that one test computes: as many warps.
const WARPS: usize = 64;

/// PTX of a kernel that loads fragments from lists of each lane's registers, multiplies, and stores D.
fn kernel(opcode: &str, registers: [usize; 4], wide: bool) -> String {
    let (ty, bytes) = if wide { ("b64", 8) } else { ("b32", 4) };
    let mut body = String::from(
        ".reg .b32 %i<5>;\n.reg .b64 %at<2>;\nmov.u32 %i0, %tid.x;\nmov.u32 %i1, %ctaid.x;\nmov.u32 %i2, %ntid.x;\n\
         mad.lo.u32 %i3, %i1, %i2, %i0;\n",
    );
    let list = |n: usize| {
        let names: Vec<String> = (0..registers[n]).map(|r| format!("%m{n}_{r}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    for n in 0..4 {
        for r in 0..registers[n] {
            body += &format!(".reg .{ty} %m{n}_{r};\n");
        }
    }
    let address =
        |n: usize| format!("ld.param.u64 %at0, [p{n}];\nmad.wide.u32 %at1, %i3, {}, %at0;\n", registers[n] * bytes);
    for n in 1..4 {
        body += &address(n);
        for r in 0..registers[n] {
            body += &format!("ld.global.{ty} %m{n}_{r}, [%at1+{}];\n", r * bytes);
        }
    }
    body += &format!("{opcode} {}, {}, {}, {};\n", list(0), list(1), list(2), list(3));
    body += &address(0);
    for r in 0..registers[0] {
        body += &format!("st.global.{ty} [%at1+{}], %m0_{r};\n", r * bytes);
    }
    module(4, &body)
}

/// Elements of one fragment in the order of the lanes' lists, `per_register` of `bits` bits in each register.
fn pack(elements: &[u64], bits: u32, wide: bool) -> Vec<u64> {
    let per_register = if wide { 1 } else { (32 / bits) as usize };
    let join = |part: &[u64]| part.iter().enumerate().fold(0, |all, (n, x)| all | x << (n as u32 * bits));
    elements.chunks(per_register).map(join).collect()
}

fn unpack(registers: &[u64], bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let parts = |x: u64| (0..(32 / bits).max(1)).map(move |n| x >> (n * bits) & mask);
    registers.iter().flat_map(|&x| parts(x)).collect()
}

/// Matrices of all warps by row and column, as bits.
type Matrices = Vec<Vec<Vec<u64>>>;

/// Runs `WARPS` products; `bits` are those of the elements of A and B, and of C and D.
fn multiply(opcode: &str, figure: &Figure, bits: [u32; 2], matrices: [&Matrices; 3]) -> Matrices {
    let wide = bits[1] == 64;
    let registers = |n: usize, bits: u32| if wide { figure.counts[n] } else { figure.counts[n] * bits as usize / 32 };
    let counts = [registers(2, bits[1]), registers(0, bits[0]), registers(1, bits[0]), registers(2, bits[1])];
    let lists: Vec<Vec<u64>> = (0..3)
        .map(|n| {
            let mut elements = vec![];
            for (warp, lane) in (0..WARPS).flat_map(|w| (0..32).map(move |l| (w, l))) {
                for i in 0..figure.counts[n] {
                    let (row, column) = figure.places[n](lane, i);
                    elements.push(matrices[n][warp][row][column]);
                }
            }
            pack(&elements, if n == 2 { bits[1] } else { bits[0] }, wide)
        })
        .collect();
    let got = execute(&kernel(opcode, counts, wide), &lists, counts[0] * 32 * WARPS, wide);
    let got = if wide { got } else { unpack(&got, bits[1]) };
    let mut d = vec![vec![vec![0; 8]; figure.rows]; WARPS];
    for (n, x) in got.into_iter().enumerate() {
        let (thread, i) = (n / figure.counts[2], n % figure.counts[2]);
        let (row, column) = figure.places[2](thread % 32, i);
        d[thread / 32][row][column] = x;
    }
    d
}

fn execute(ptx: &str, lists: &[Vec<u64>], results: usize, wide: bool) -> Vec<u64> {
    let kernel = Kernel::load(ptx, "test").unwrap();
    let launch = |addresses: &[u64]| kernel.launch([WARPS as u32 / 4, 1, 1], [128, 1, 1], 0, addresses).unwrap();
    if wide {
        let inputs: Vec<Memory<u64>> = lists.iter().map(|x| Memory::new(x)).collect();
        let d = Memory::new(&vec![0u64; results]);
        launch(&[&[d.address()], &inputs.iter().map(Memory::address).collect::<Vec<_>>()[..]].concat());
        d.read()
    } else {
        let narrow = |x: &Vec<u64>| Memory::new(&x.iter().map(|&x| x as u32).collect::<Vec<_>>());
        let inputs: Vec<Memory<u32>> = lists.iter().map(narrow).collect();
        let d = Memory::new(&vec![0u32; results]);
        launch(&[&[d.address()], &inputs.iter().map(Memory::address).collect::<Vec<_>>()[..]].concat());
        d.read().into_iter().map(u64::from).collect()
    }
}

fn random_matrices(random: &mut Random, rows: usize, columns: usize, element: impl Fn(&mut Random) -> u64) -> Matrices {
    let mut matrix = || (0..rows).map(|_| (0..columns).map(|_| element(random)).collect()).collect();
    (0..WARPS).map(|_| matrix()).collect()
}

/// The f16 with a value that it holds exactly.
fn half(x: f64) -> u64 {
    if x == 0.0 {
        return 0;
    }
    let exponent = x.abs().log2().floor() as i32;
    let fraction = (x.abs() / 2f64.powi(exponent) * 1024.0) as u64 & 0x3ff;
    ((x < 0.0) as u64) << 15 | ((exponent + 15) as u64) << 10 | fraction
}

fn half_value(bits: u64) -> f64 {
    let (exponent, fraction) = (bits >> 10 & 31, (bits & 0x3ff) as f64);
    let magnitude = if exponent == 0 {
        fraction * 2f64.powi(-24)
    } else {
        (1.0 + fraction / 1024.0) * 2f64.powi(exponent as i32 - 15)
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// The bits of a value that a type holds exactly.
fn encode(ty: &str, x: f64) -> u64 {
    match ty {
        "f16" => half(x),
        "bf16" => (x as f32).to_bits() as u64 >> 16,
        _ => (x as f32).to_bits() as u64,
    }
}

fn decode(ty: &str, bits: u64) -> f64 {
    match ty {
        "f16" => half_value(bits),
        "bf16" => f32::from_bits((bits << 16) as u32) as f64,
        _ => f32::from_bits(bits as u32) as f64,
    }
}

/// Shapes of products of floats: the types of operands and of accumulators.
const FLOATS: [(&Figure, &str, &str); 8] = [
    (&HALVES_K8, "bf16", "f32"),
    (&HALVES_K16, "bf16", "f32"),
    (&HALVES_K8, "f16", "f32"),
    (&HALVES_K16, "f16", "f32"),
    (&HALVES_K8, "f16", "f16"),
    (&HALVES_K16, "f16", "f16"),
    (&TF32_K4, "tf32", "f32"),
    (&TF32_K8, "tf32", "f32"),
];

/// Products of floats whose elements `element` chooses: every sum comes with the sum in f64.
fn products_of_floats(element: impl Fn(&mut Random, &str) -> f64, compare: impl Fn(&str, f64, f64, f64)) {
    for (figure, operand, accumulator) in FLOATS {
        let opcode =
            format!("mma.sync.aligned.{}.row.col.{accumulator}.{operand}.{operand}.{accumulator}", figure.shape);
        let mut random = Random::new(figure.k as u64 + operand.len() as u64);
        let mut make = |rows: usize, columns: usize, ty: &str| {
            random_matrices(&mut random, rows, columns, |r| encode(ty, element(r, ty)))
        };
        let (a, b, c) = (make(16, figure.k, operand), make(figure.k, 8, operand), make(16, 8, accumulator));
        let bits = [if operand == "tf32" { 32 } else { 16 }, if accumulator == "f32" { 32 } else { 16 }];
        let d = multiply(&opcode, figure, bits, [&a, &b, &c]);
        for (warp, row, column) in (0..WARPS).flat_map(|w| (0..128).map(move |n| (w, n / 8, n % 8))) {
            let term = |k: usize| decode(operand, a[warp][row][k]) * decode(operand, b[warp][k][column]);
            let start = decode(accumulator, c[warp][row][column]);
            let sum = (0..figure.k).map(term).fold(start, |sum, x| sum + x);
            let size = (0..figure.k).map(|k| term(k).abs()).fold(start.abs(), |sum, x| sum + x);
            compare(&opcode, decode(accumulator, d[warp][row][column]), sum, size);
        }
    }
}

/// Small integers: every sum is exact, in whatever way it is cut.
#[test]
fn floats_that_need_no_rounding_are_exact() {
    products_of_floats(
        |random, _| random.below(15) as f64 - 7.0,
        |opcode, got, sum, _| assert_eq!(got, sum, "{opcode}"),
    );
}

/// A step loses at most a unit below the largest product for each summand: 2^-23 of the sum of magnitudes for f32, with steps of at least four products and
/// exponents of products that may be one lower than the products'.
#[test]
fn sums_are_within_what_tensor_cores_cut() {
    let fraction = |random: &mut Random, ty: &str| {
        let bits = if ty == "bf16" { 128 } else { 1024 };
        (1.0 + random.below(bits) as f64 / bits as f64)
            * 2f64.powi(random.below(6) as i32 - 3)
            * [1.0, -1.0][random.below(2) as usize]
    };
    products_of_floats(fraction, |opcode, got, sum, size| {
        let unit = if opcode.ends_with("f16.f16.f16.f16") { 2f64.powi(-10) } else { 2f64.powi(-20) };
        assert!((got - sum).abs() <= unit * size, "{opcode}: {got} for {sum}");
    });
}

#[test]
fn exact_sums_are_rounded_once() {
    in_process("products::exactly_rounded", &[("VIRTUAL_GPU_TENSOR_STEP", "exact")]);
}

#[test]
#[ignore = "run by exact_sums_are_rounded_once"]
fn exactly_rounded() {
    let fraction = |random: &mut Random, ty: &str| {
        let bits = if ty == "bf16" { 128 } else { 1024 };
        (1.0 + random.below(bits) as f64 / bits as f64)
            * 2f64.powi(random.below(6) as i32 - 3)
            * [1.0, -1.0][random.below(2) as usize]
    };
    products_of_floats(fraction, |opcode, got, sum, _| {
        if opcode.ends_with("f16.f16.f16.f16") {
            assert!((got - sum).abs() <= 2f64.powi(-11) * sum.abs(), "{opcode}: {got} for {sum}");
        } else {
            assert_eq!(got, (sum as f32) as f64, "{opcode}");
        }
    });
}

#[test]
fn integers_wrap_or_saturate() {
    for (figure, at, bt) in [&BYTES_K16, &BYTES_K32]
        .into_iter()
        .flat_map(|f| [(f, "s8", "s8"), (f, "s8", "u8"), (f, "u8", "s8"), (f, "u8", "u8")])
    {
        for saturate in [false, true] {
            let suffix = if saturate { ".satfinite" } else { "" };
            let opcode = format!("mma.sync.aligned.{}.row.col{suffix}.s32.{at}.{bt}.s32", figure.shape);
            let mut random = Random::new(figure.k as u64);
            let a = random_matrices(&mut random, 16, figure.k, |r| r.below(256));
            let b = random_matrices(&mut random, figure.k, 8, |r| r.below(256));
            let c = random_matrices(&mut random, 16, 8, |r| {
                let near = r.below(200_000);
                [near, 0x7fff_ffff - near, 0x8000_0000 + near, 0xffff_ffff - near][r.below(4) as usize]
            });
            let d = multiply(&opcode, figure, [8, 32], [&a, &b, &c]);
            let value = |ty: &str, bits: u64| if ty == "s8" { bits as u8 as i8 as i64 } else { bits as i64 };
            for (warp, row, column) in (0..WARPS).flat_map(|w| (0..128).map(move |n| (w, n / 8, n % 8))) {
                let term = |k: usize| value(at, a[warp][row][k]) * value(bt, b[warp][k][column]);
                let sum = (0..figure.k).map(term).sum::<i64>() + c[warp][row][column] as u32 as i32 as i64;
                let want = if saturate { sum.clamp(i32::MIN as i64, i32::MAX as i64) } else { sum } as u32 as u64;
                assert_eq!(d[warp][row][column], want, "{opcode}");
            }
        }
    }
}

/// Fused multiply-adds along K.
#[test]
fn doubles_are_fused_in_order() {
    for figure in [&DOUBLES, &DOUBLES_K16] {
        let opcode = format!("mma.sync.aligned.{}.row.col.f64.f64.f64.f64", figure.shape);
        let mut random = Random::new(5);
        let mut make = |rows, columns| {
            random_matrices(&mut random, rows, columns, |r| ((r.below(1 << 53) as f64 / 2f64.powi(50)) - 4.0).to_bits())
        };
        let (a, b, c) = (make(figure.rows, figure.k), make(figure.k, 8), make(figure.rows, 8));
        let d = multiply(&opcode, figure, [64, 64], [&a, &b, &c]);
        let value = f64::from_bits;
        for (warp, row, column) in (0..WARPS).flat_map(|w| (0..figure.rows * 8).map(move |n| (w, n / 8, n % 8))) {
            let step = |sum: f64, k: usize| value(a[warp][row][k]).mul_add(value(b[warp][k][column]), sum);
            let want = (0..figure.k).fold(value(c[warp][row][column]), step);
            assert_eq!(value(d[warp][row][column]), want, "{opcode}");
        }
    }
}

/// What is no `mma` of these shapes is refused.
#[test]
fn other_shapes_are_refused() {
    for opcode in
        ["mma.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32", "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f32"]
    {
        let ptx = kernel(opcode, [4, 4, 2, 4], false);
        let kernel = Kernel::load(&ptx, "test").unwrap();
        assert_eq!(kernel.launch([1, 1, 1], [32, 1, 1], 0, &[0; 4]), Err(CudaError(218)), "{opcode}");
    }
}

/// PTX that copies 2048 bytes into shared memory, and after `middle` stores four registers of each lane.
fn with_shared(middle: &str) -> String {
    let mut body = String::from(
        ".shared .align 128 .b8 tile[2048];\n.reg .b32 %i<6>;\n.reg .b32 %v<4>;\n.reg .b64 %at<3>;\nmov.u32 %i0, %tid.x;\n\
         ld.param.u64 %at0, [p0];\nld.param.u64 %at1, [p1];\nmov.u32 %i1, tile;\nmad.lo.u32 %i2, %i0, 16, %i1;\n\
         mad.wide.u32 %at2, %i0, 16, %at0;\nmad.wide.u32 %at1, %i0, 16, %at1;\n",
    );
    for part in 0..4 {
        for word in 0..4 {
            let at = 512 * part + 4 * word;
            body += &format!("ld.global.b32 %i3, [%at2+{at}];\nst.shared.b32 [%i2+{at}], %i3;\n");
        }
    }
    body += "bar.sync 0;\nmov.b32 %v0, 0;\nmov.b32 %v1, 0;\nmov.b32 %v2, 0;\nmov.b32 %v3, 0;\n";
    body += middle;
    body += "st.global.v4.b32 [%at1], {%v0, %v1, %v2, %v3};\n";
    module(2, &body)
}

/// Addresses of rows: lane `l` gives row `l % 8` of matrix `l / 8`, here at `(l * 7 % 32) * 48` of a tile: rows in disorder, apart from each other.
const ROWS: &str = "mul.lo.u32 %i4, %i0, 7;\nand.b32 %i4, %i4, 31;\nmad.lo.u32 %i4, %i4, 48, %i1;\n";

fn row_offset(lane: usize) -> usize {
    lane * 7 % 32 * 48
}

#[test]
fn ldmatrix_reads_rows_and_columns() {
    let bytes: Vec<u16> = (0..1024u32).map(|n| ((n * 40503) >> 3) as u16).collect();
    for (count, list) in [(1, "{%v0}"), (2, "{%v0, %v1}"), (4, "{%v0, %v1, %v2, %v3}")] {
        for trans in ["", ".trans"] {
            let load = format!("{ROWS}ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {list}, [%i4];\n");
            let (input, output) = (Memory::new(&bytes), Memory::new(&[0u32; 128]));
            let kernel = Kernel::load(&with_shared(&load), "test").unwrap();
            kernel.launch([1, 1, 1], [32, 1, 1], 0, &[input.address(), output.address()]).unwrap();
            let got = output.read();
            for (matrix, lane, part) in (0..count).flat_map(|m| (0..64).map(move |n| (m, n / 2, n % 2))) {
                // Lane l holds elements 2 (l % 4) and the next of row l / 4.
                let (row, column) = (lane / 4, 2 * (lane % 4) + part);
                let (row, column) = if trans.is_empty() { (row, column) } else { (column, row) };
                let want = bytes[row_offset(8 * matrix + row) / 2 + column];
                assert_eq!((got[4 * lane + matrix] >> (16 * part)) as u16, want, "x{count}{trans}, lane {lane}");
            }
        }
    }
}

#[test]
fn stmatrix_writes_what_ldmatrix_reads() {
    let bytes: Vec<u16> = (0..1024u32).map(|n| ((n * 40503) >> 3) as u16).collect();
    for (count, list) in [(1, "{%v0}"), (2, "{%v0, %v1}"), (4, "{%v0, %v1, %v2, %v3}")] {
        for trans in ["", ".trans"] {
            // Loaded plainly, stored in the same places: a transposed store transposes every matrix.
            let text = format!(
                "{ROWS}ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {list}, [%i4];\nbar.warp.sync -1;\n\
                 stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%i4], {list};\nbar.warp.sync -1;\n\
                 ld.shared.v4.b32 {{%v0, %v1, %v2, %v3}}, [%i4];\n"
            );
            let (input, output) = (Memory::new(&bytes), Memory::new(&[0u32; 128]));
            let kernel = Kernel::load(&with_shared(&text), "test").unwrap();
            kernel.launch([1, 1, 1], [32, 1, 1], 0, &[input.address(), output.address()]).unwrap();
            let got = output.read();
            for (lane, column) in (0..8 * count).flat_map(|l| (0..8).map(move |c| (l, c))) {
                let stored = (got[4 * lane + column / 2] >> (16 * (column % 2))) as u16;
                let (matrix, row) = (lane / 8, lane % 8);
                let (from, at) = if trans.is_empty() { (row, column) } else { (column, row) };
                assert_eq!(stored, bytes[row_offset(8 * matrix + from) / 2 + at], "x{count}{trans}, row {lane}");
            }
        }
    }
}
