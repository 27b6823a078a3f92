//! Mutants of a kernel: each lacks one barrier, wait, fence or commit, or has one operand wrong. A command that runs the kernel
//! must fail on each, by the sanitizer, by a fault, or by a wrong result; who survives is equivalent, or the checks have a hole.
//! A mutant of a line that the command never reaches (a trap there changes nothing) is counted apart.
//!
//! What was found, by the tests of `ops::contrastive::hopper` (small and odd sizes) and of each operator:
//!
//! | Kernel | Mutants | Caught | Survivors |
//! |---|---|---|---|
//! | `contrastive_wgmma_bf16` | 38 | 27 | 2 `setmaxnreg`: registers are not modelled, and no result depends on them. 4 `bar.warp.sync` before lane 0 frees a slot: its `wgmma.wait_group` has ended the whole warp's reads. 3 arrivals, a `bar.warp.sync` and a count of arrivals at slots that are not filled again at these sizes. |
//! | `contrastive_gradient_wgmma_bf16` | 97 | 78 | 2 `setmaxnreg`, as above. 9 `bar.warp.sync` before lane 0 arrives: 8 behind a `wgmma.wait_group`, as above, and 1 behind `ldmatrix`, which the whole warp takes part in. 8 in `pass`, where a lane would have to sleep while the slot it waits for is given back, filled again and complete, to miss its phase: no seed that was tried drew that. |
//! | `decomp_conv_finish` | 6 | 4 | 2 operands: sums of lanes from 11 and 25 on, where the test's blocks are fewer and all sums 0. |
//! | `decomp_dense_branch_gradient_f32` | 2 | 1 | 1 operand: the shift, which counts where GELU follows, as in no test of the command. |
//! | `contrastive_band_f32`, `attention_query_gradient64_f32`, `layer_norm_gradient_sums_f32` | 9 | 9 | |
//!
//! `mutants [--indices N] IMAGE ARCH KERNEL COMMAND...`: IMAGE is a fatbin or PTX text that has KERNEL, ARCH 80 or 90, and COMMAND
//! is to find the virtual GPU in the place of libcuda.so.1.

use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

/// A change of one line of a kernel.
struct Mutant {
    /// The line, from 0.
    line: usize,
    what: &'static str,
    text: String,
}

/// Statements that a mutant lacks.
const DROPPED: [(&str, &str); 14] = [
    ("bar.sync", "no barrier"),
    ("barrier.sync", "no barrier"),
    ("bar.warp.sync", "no warp barrier"),
    ("cp.async.commit_group", "no commit"),
    ("cp.async.wait", "no wait"),
    ("fence", "no fence"),
    ("membar", "no fence"),
    ("mbarrier.arrive", "no arrival"),
    ("mbarrier.expect_tx", "no expectation"),
    ("barrier.cluster", "no barrier of the cluster"),
    ("setmaxnreg", "no change of registers"),
    ("wgmma.fence", "no fence of products"),
    ("wgmma.commit_group", "no commit of products"),
    ("wgmma.wait_group", "no wait for products"),
];

/// A statement without its guard.
fn unguarded(line: &str) -> &str {
    let line = line.trim();
    match line.strip_prefix('@') {
        Some(guarded) => guarded.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim()),
        None => line,
    }
}

/// The last operand of a wait, a count: one more may be pending.
fn one_more(line: &str) -> Option<String> {
    let (head, count) = line.trim_end().trim_end_matches(';').rsplit_once(char::is_whitespace)?;
    let count: u32 = count.parse().ok()?;
    Some(format!("{head} {};", count + 1))
}

/// A wait for the other phase.
fn other_phase(line: &str) -> Option<String> {
    let (head, parity) = line.trim_end().trim_end_matches(';').rsplit_once(',')?;
    let parity = parity.trim();
    let other = match parity.parse::<u32>() {
        Ok(number) => return Some(format!("{head}, {};", number ^ 1)),
        Err(_) => "%mutant",
    };
    Some(format!("{{ .reg .b32 {other}; xor.b32 {other}, {parity}, 1; {head}, {other}; }}"))
}

/// A statement whose operand before `behind` is larger by `more`, in a register of `bits`.
fn with_more(line: &str, behind: &str, bits: u32, more: u32) -> Option<String> {
    let (head, tail) = line.rsplit_once(behind)?;
    let (head, operand) = head.rsplit_once(' ')?;
    let add = format!(".reg .b{bits} %mutant; add.s{bits} %mutant, {operand}, {more};");
    Some(format!("{{ {add} {head} %mutant{behind}{tail} }}"))
}

/// An access 16 bytes further on.
fn shifted(line: &str) -> Option<String> {
    let (head, rest) = line.split_once('[')?;
    let (address, tail) = rest.split_once(']')?;
    let (base, offset) = match address.split_once('+') {
        Some((base, offset)) => (base, offset.parse::<i64>().ok()?),
        None => (address, 0),
    };
    Some(format!("{head}[{base}+{}]{tail}", offset + 16))
}

fn mutants(lines: &[&str], body: std::ops::Range<usize>, indices: usize) -> Vec<Mutant> {
    let mut all = vec![];
    let mut accesses = vec![];
    for at in body {
        let statement = unguarded(lines[at]);
        let mut add = |what, text: Option<String>| all.extend(text.map(|text| Mutant { line: at, what, text }));
        if let Some((_, what)) = DROPPED.iter().find(|(start, _)| statement.starts_with(start)) {
            add(what, Some(String::new()));
        }
        if statement.starts_with("cp.async.wait_group") || statement.starts_with("wgmma.wait_group") {
            add("one group more may be pending", one_more(lines[at]));
        }
        if statement.starts_with("mbarrier.try_wait.parity") {
            add("the other phase", other_phase(lines[at]));
        }
        for (strong, what) in [(".release", "no release"), (".acquire", "no acquire")] {
            if statement.starts_with("atom.") || statement.starts_with("red.") || statement.starts_with("ld.acquire") {
                add(what, statement.contains(strong).then(|| lines[at].replacen(strong, ".relaxed", 1)));
            }
        }
        if ["ld.shared", "st.shared", "cp.async.cg", "ld.global", "st.global"].iter().any(|s| statement.starts_with(s))
        {
            accesses.extend(shifted(lines[at]).map(|text| Mutant { line: at, what: "the wrong address", text }));
        }
        let mut operand =
            |what, text: Option<String>| accesses.extend(text.map(|text| Mutant { line: at, what, text }));
        if statement.starts_with("wgmma.mma_async") {
            operand("the wrong operand", with_more(lines[at], ", p,", 64, 2));
        } else if statement.starts_with("mbarrier.init") {
            operand("one arrival more is expected", with_more(lines[at], ";", 32, 1));
        } else if statement.starts_with("mbarrier.arrive.expect_tx") {
            operand("more bytes are expected", with_more(lines[at], ";", 32, 16));
        } else if statement.starts_with("cp.async.bulk.shared") {
            operand("the wrong destination", shifted(lines[at]));
        }
    }
    let step = accesses.len().div_ceil(indices.max(1)).max(1);
    all.extend(accesses.into_iter().step_by(step).take(indices));
    all
}

/// The lines of a kernel's body.
fn body(lines: &[&str], kernel: &str) -> Option<std::ops::Range<usize>> {
    let first = lines.iter().position(|line| line.contains(&format!(".entry {kernel}(")))?;
    let open = first + lines[first..].iter().position(|line| line.starts_with('{'))?;
    let mut depth = 0;
    let close = lines[open..].iter().position(|line| {
        depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
        depth == 0
    })?;
    Some(open + 1..open + close)
}

/// Runs the command with a module in the place of the one that it has; nothing if it takes too long.
fn run(command: &[String], file: &std::path::Path, seed: u32, limit: Duration) -> Option<Output> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .env("VIRTUAL_GPU_PTX", file)
        .env("VIRTUAL_GPU_SANITIZE", "memory,fail")
        .env("VIRTUAL_GPU_SEED", seed.to_string())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the command starts");
    let started = Instant::now();
    while child.try_wait().expect("it can be waited for").is_none() {
        if started.elapsed() > limit {
            child.kill().expect("it runs");
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().ok()
}

/// How a mutant was noticed, or that it was not.
fn verdict(output: Option<Output>, kernel: &str) -> Option<&'static str> {
    let Some(output) = output else { return Some("hangs") };
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if text.contains(&format!("virtual_gpu: {kernel} cannot be compiled")) {
        Some("refused")
    } else if text.contains(&format!("virtual_gpu: {kernel}: ")) {
        Some("sanitizer")
    } else if text.contains(&format!("virtual_gpu: kernel {kernel}")) {
        Some("fault")
    } else if !output.status.success() {
        Some("result")
    } else {
        None
    }
}

fn text_of(image: &str, arch: &str) -> Result<String, String> {
    let mut bytes = std::fs::read(image).map_err(|e| format!("{image}: {e}"))?;
    bytes.push(0);
    let capability = arch.parse().map_err(|_| format!("{arch} is no architecture; choose 80 or 90"))?;
    // Safety: a whole file of nvcc's, and a byte that ends it if it is text.
    unsafe { virtual_gpu::ptx::fatbin::ptx(bytes.as_ptr(), capability) }
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut indices = 4;
    if arguments.first().is_some_and(|a| a == "--indices") {
        indices = arguments[1].parse().expect("--indices takes a number");
        arguments.drain(..2);
    }
    let [image, arch, kernel, command @ ..] = &arguments[..] else {
        eprintln!("mutants [--indices N] IMAGE ARCH KERNEL COMMAND...");
        return ExitCode::FAILURE;
    };
    let text = text_of(image, arch).expect("the image has PTX for this architecture");
    let lines: Vec<&str> = text.lines().collect();
    let body = body(&lines, kernel).expect("the image has this kernel");
    let file = std::env::temp_dir().join(format!("mutant-{}.ptx", std::process::id()));
    let limit = Duration::from_secs(120);
    let write = |lines: &[&str]| std::fs::write(&file, lines.join("\n")).expect("a file among the temporary ones");
    write(&lines);
    let whole = run(command, &file, 0, limit);
    if let Some(how) = verdict(whole, kernel) {
        eprintln!("{kernel} fails without a change ({how}); nothing can be learnt from mutants");
        return ExitCode::FAILURE;
    }
    let (mut caught, mut survivors, mut unreached) = (std::collections::BTreeMap::new(), vec![], 0);
    for mutant in mutants(&lines, body, indices) {
        let mut changed = lines.clone();
        changed[mutant.line] = &mutant.text;
        write(&changed);
        let how = (0..3).find_map(|seed| verdict(run(command, &file, seed, limit), kernel));
        let name = format!("PTX line {}: {}: {}", mutant.line + 1, mutant.what, lines[mutant.line].trim());
        if let Some(how) = how {
            eprintln!("{how}: {name}");
            *caught.entry(how).or_insert(0) += 1;
            continue;
        }
        changed[mutant.line] = "trap;";
        write(&changed);
        if verdict(run(command, &file, 0, limit), kernel).is_none() {
            eprintln!("unreached: {name}");
            unreached += 1;
        } else {
            eprintln!("survives: {name}");
            survivors.push(name);
        }
    }
    let all: usize = caught.values().sum::<usize>() + survivors.len();
    println!(
        "{kernel}: {} of {all} mutants caught {caught:?}; {unreached} more are never reached",
        all - survivors.len()
    );
    survivors.iter().for_each(|survivor| println!("  survives: {survivor}"));
    std::fs::remove_file(&file).ok();
    ExitCode::SUCCESS
}
