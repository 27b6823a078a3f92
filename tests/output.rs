//! Where commands write: outputs that are closed, full, links or no plain files; names that are not UTF-8; hang-up.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use x2ct::ct::{Affine, AxisCodes, CtVolume, nifti};
use x2ct::files;

use crate::cli::{configuration, prepare};
use crate::support::program;

fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace()).current_dir(folder);
    command
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_full_output_is_one_line_and_a_closed_one_none() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let eval = "eval --cache train.cache.safetensors --dataset . --split train";
    for arguments in ["doctor", "doctor --json", "model resnet18", eval] {
        let output = command(folder.path(), arguments).stdout(full()).output().unwrap();
        let text = said(&output);
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{arguments}: {text}");
        assert!(text.starts_with("x2ct: standard output: cannot be written: No space left"), "{arguments}: {text}");
        let output = command(folder.path(), arguments).stdout(closed()).output().unwrap();
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""), "{arguments}");
        // Wrong usage that cannot be said is still an exit code.
        let output = command(folder.path(), "model vgg16").stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(output.code(), Some(2));
    }
}

/// A command's lines on a terminal of 100 columns of this kind.
fn on_terminal(at: &Path, arguments: &str, kind: &str) -> String {
    let size = nix::libc::winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: opens two descriptors, which are owned below; name and settings may be null.
    let opened =
        unsafe { nix::libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null_mut(), &size) };
    assert_eq!(opened, 0);
    // SAFETY: open, and owned by nothing else.
    let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) };
    let mut command = command(at, arguments);
    command.env("TERM", kind).env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE");
    let mut child = command.stdout(Stdio::null()).stderr(theirs).spawn().unwrap();
    drop(command);
    let mut said = Vec::new();
    // Ends with an error where the last writer has gone.
    let _ = ours.read_to_end(&mut said);
    assert!(child.wait().unwrap().success());
    String::from_utf8(said).unwrap()
}

#[test]
fn a_terminal_that_cannot_draw_gets_plain_lines() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let train = |kind| on_terminal(folder.path(), "train good.toml --device host --restart", kind);
    assert!(train("xterm-256color").contains("\u{1b}["));
    let plain = train("dumb");
    assert!(!plain.contains('\u{1b}') && plain.contains("training: 1/1 steps, "), "{plain:?}");
}

#[test]
fn a_path_may_begin_with_the_home_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let home = at.join("home");
    std::fs::create_dir(&home).unwrap();
    symlink(at.join("train"), home.join("data")).unwrap();
    let text = configuration(at, 1, 4).replace("out = \"run\"", "out = \"~/runs/a\"");
    let text = text.replace(&format!("\"{}/train/", at.display()), "\"~/data/");
    std::fs::write(at.join("home.toml"), &text).unwrap();
    let run = |home: &Path| command(at, "train home.toml --device host").env("HOME", home).output().unwrap();
    let output = run(&home);
    assert!(output.status.success(), "{}", said(&output));
    assert!(home.join("runs/a/checkpoint.safetensors").exists() && !at.join("~").exists());
    std::fs::write(at.join("home.toml"), text.replace("~/runs", "~nobody/runs")).unwrap();
    let output = run(&home);
    assert!(!output.status.success() && !at.join("~nobody").exists());
    assert!(said(&output).contains("~nobody/runs/a: begins with ~, and that home folder is not known"), "{output:?}");
}

#[test]
fn training_goes_on_without_its_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let checkpoint = |outputs: [Stdio; 2]| {
        let _ = std::fs::remove_dir_all(at.join("run"));
        let [out, err] = outputs;
        let status = command(at, "train good.toml --device host").stdout(out).stderr(err).status().unwrap();
        (status.code(), std::fs::read(at.join("run/checkpoint.safetensors")).unwrap())
    };
    let (code, whole) = checkpoint([Stdio::null(), Stdio::null()]);
    assert_eq!(code, Some(0));
    for (outputs, expected) in
        [([Stdio::null(), full().into()], 0), ([closed(), closed()], 0), ([full().into(), full().into()], 1)]
    {
        let (code, again) = checkpoint(outputs);
        assert!(code == Some(expected) && again == whole, "{code:?}");
    }
}

/// Starts a long training whose output goes to a pipe, and waits for its first step.
fn start(at: &Path, prefix: &[&str]) -> std::process::Child {
    std::fs::write(at.join("long.toml"), configuration(at, 4000, 4).replace("checkpoint_steps = 1\n", "")).unwrap();
    let mut words = prefix.iter().map(|word| word.to_string()).chain([files::lossy(program())]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["train", "long.toml", "--device", "host", "--json"]).current_dir(at);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !at.join("run/checkpoint.safetensors").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no step in a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

fn signal(child: &std::process::Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn steps(at: &Path) -> usize {
    std::fs::read_to_string(at.join("run/log.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn ctrl_c_with_dead_pipes_writes_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let mut child = start(folder.path(), &[]);
    drop((child.stdout.take(), child.stderr.take()));
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let checkpoint =
        x2ct::train::Checkpoint::<x2ct::train::TrainConfig>::read(&folder.path().join("run/checkpoint.safetensors"));
    assert_eq!(checkpoint.unwrap().position.step, steps(folder.path()));
}

#[test]
fn hang_up_ends_a_run_with_a_checkpoint_and_one_under_nohup_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    // The tests themselves may run under nohup.
    let heeding: &[&str] = if cfg!(target_os = "linux") { &["env", "--default-signal=HUP"] } else { &[] };
    let mut child = start(folder.path(), heeding);
    signal(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&report["status"], &report["command"]), (&"interrupted".into(), &"train".into()), "{report}");
    std::fs::remove_dir_all(folder.path().join("run")).unwrap();

    let mut child = start(folder.path(), &["nohup"]);
    signal(&child, "-HUP");
    let before = steps(folder.path());
    let begin = Instant::now();
    while steps(folder.path()) <= before && begin.elapsed() < Duration::from_secs(60) {
        assert!(child.try_wait().unwrap().is_none(), "ended by hang-up under nohup");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(steps(folder.path()) > before);
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn two_trainings_in_one_folder_are_one_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let mut child = start(at, &[]);
    for arguments in ["train long.toml", "train long.toml --restart"] {
        let second = command(at, &format!("{arguments} --device host")).output().unwrap();
        // Which process it is, where the system tells.
        let says = said(&second).replace(&format!(" (process {})", child.id()), "");
        let refused = "x2ct: run: another x2ct is at work in it; let that one finish or stop it";
        assert!(second.status.code() == Some(1) && says.starts_with(refused), "{second:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What a killed process held is free, and nothing is left of it.
    let claim = files::Claim::of(at.join("run")).unwrap();
    let error = files::Claim::of(at.join("run")).map(drop).unwrap_err().to_string();
    assert!(error.contains("is at work in it"), "{error}");
    drop(claim);
    files::Claim::of(at.join("run")).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(at.join("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| !name.to_string_lossy().starts_with('.'));
    left.sort();
    assert_eq!(left, ["checkpoint.safetensors", "log.jsonl"]);
}

#[test]
fn the_version_says_of_which_commit() {
    let output = command(Path::new("."), "--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let commit =
        said.strip_prefix(concat!("x2ct ", env!("CARGO_PKG_VERSION"), " (")).unwrap_or_else(|| panic!("{said}"));
    assert!(commit.starts_with("commit ") || commit.contains("no commit known"), "{said}");
}

#[test]
fn output_goes_through_links_and_into_what_is_no_plain_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    std::fs::write(at("real"), "old").unwrap();
    std::fs::set_permissions(at("real"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir(at("sub")).unwrap();
    symlink("../real", at("sub/link")).unwrap();
    symlink("sub/link", at("link")).unwrap();
    files::check_writable(at("link")).unwrap();
    files::write_atomic(at("link"), b"new").unwrap();
    assert_eq!(read("real"), "new");
    assert_eq!(at("real").metadata().unwrap().mode() & 0o777, 0o600);
    assert!(at("link").is_symlink() && at("sub/link").is_symlink());
    // A link to nothing makes what it names.
    symlink("sub/made", at("dangling")).unwrap();
    files::write_atomic(at("dangling"), b"made").unwrap();
    assert!(at("dangling").is_symlink() && read("sub/made") == "made");
    // A loop and a folder are refused.
    symlink("loop", at("loop")).unwrap();
    let error = |name: &str| files::write_atomic(at(name), b"x").unwrap_err().to_string();
    assert!(error("loop").contains("a link that leads to itself"), "{}", error("loop"));
    assert!(error("sub").contains("is a folder"), "{}", error("sub"));
    // A failure leaves the old content behind a link.
    let failing = files::write_atomic_with(at("link"), |out| {
        out.write_all(b"half").unwrap();
        Err(x2ct::Error::argument("content", "fails", "never"))
    });
    assert!(failing.is_err() && read("real") == "new");
    // Devices and FIFOs stay what they are.
    files::write_atomic("/dev/null", b"gone").unwrap();
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    assert!(files::write_atomic("/dev/full", b"much").unwrap_err().to_string().contains("No space left"));
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let reader = {
        let fifo = at("fifo");
        std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap())
    };
    files::check_writable(at("fifo")).unwrap();
    files::write_atomic(at("fifo"), b"through").unwrap();
    assert_eq!(reader.join().unwrap(), "through");
    assert!(at("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6, "no temporary file stays");
    // What a killed process leaves of a file is removed, and nothing that only looks like it.
    let kept = [".real.a", ".real.abc-ef", ".other.abcdef", "real.abcdef", ".real.abcdefg"];
    for name in kept.iter().chain(&[".real.aB3def"]) {
        std::fs::write(at(name), "half").unwrap();
    }
    files::remove_unfinished(at("real")).unwrap();
    assert!(kept.iter().all(|name| at(name).exists()) && !at(".real.aB3def").exists() && read("real") == "new");
}

#[test]
fn a_table_goes_to_standard_output_be_that_a_pipe_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let arguments = "eval --cache train.cache.safetensors --dataset . --split train --csv";
    let direct = command(at, &format!("{arguments} table.csv")).output().unwrap();
    assert!(direct.status.success(), "{}", said(&direct));
    let table = std::fs::read(at.join("table.csv")).unwrap();
    let expected: Vec<&[u8]> = vec![&table, &direct.stdout];
    let together = |bytes: &[u8]| {
        bytes.len() == expected.concat().len()
            && expected.iter().all(|part| bytes.windows(part.len()).any(|w| w == *part))
    };
    let piped = command(at, &format!("{arguments} /dev/stdout")).output().unwrap();
    assert!(together(&piped.stdout));
    let file = File::create(at.join("both")).unwrap();
    assert!(command(at, &format!("{arguments} /dev/stdout")).stdout(file).status().unwrap().success());
    let mut bytes = Vec::new();
    File::open(at.join("both")).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(together(&bytes));
}

/// A volume that is only taken by force is listed in JSON, whatever its name is.
#[test]
fn forced_volumes_are_listed_by_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = folder.path().join("volumes");
    std::fs::create_dir(&volumes).unwrap();
    let affine = Affine::centred(AxisCodes::LPS, [10.0; 3], [20, 20, 20]).unwrap();
    let constant = CtVolume::new(vec![40i16; 8000].into(), [20, 20, 20], affine).unwrap();
    nifti::write(volumes.join(OsStr::from_bytes(b"v\xf6l.nii.gz")), &constant).unwrap();
    for arguments in ["drr volumes --out made", "preprocess volumes --preset x2ct --out prepared"] {
        let output = command(folder.path(), &format!("{arguments} --force --json")).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["forced"], serde_json::json!(["volumes/v\u{fffd}l.nii.gz"]), "{arguments}");
    }
}

/// Commands in a folder, on files and with outputs whose names are Latin-1.
#[test]
fn names_that_are_not_utf8_work_in_every_command() {
    let outer = tempfile::tempdir().unwrap();
    let latin = |name: &[u8]| OsStr::from_bytes(name).to_os_string();
    let at = outer.path().join(latin(b"r\xf6ntgen"));
    std::fs::create_dir(&at).unwrap();
    let run = |arguments: &[&[u8]]| {
        let output = Command::new(program())
            .args(arguments.iter().map(|a| OsStr::from_bytes(a)))
            .current_dir(outer.path())
            .output()
            .unwrap();
        let what = arguments.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>().join(" ");
        assert!(output.status.success(), "x2ct {what}: {}", said(&output));
        if arguments.contains(&&b"--json"[..]) {
            serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON");
        }
    };
    let dataset: &[&[u8]] = &[
        b"drr",
        b"--dataset",
        b"r\xf6ntgen",
        b"--split",
        b"train",
        b"--size",
        b"32x32",
        b"--out",
        b"r\xf6ntgen/set",
        b"--pictures",
        b"png",
        b"--json",
    ];
    let predict: &[&[u8]] = &[
        b"predict",
        b"r\xf6ntgen/p\xe4.png",
        b"--force",
        b"--checkpoint",
        b"r\xf6ntgen/run/checkpoint.safetensors",
        b"--cache",
        b"r\xf6ntgen/train.cache.safetensors",
    ];
    let words: [&[&[u8]]; 15] = [
        &[
            b"phantom",
            b"--out",
            b"r\xf6ntgen",
            b"--train",
            b"6",
            b"--valid",
            b"4",
            b"--shape",
            b"24x24x24",
            b"--spacing",
            b"14",
            b"--json",
        ],
        dataset,
        dataset,
        &[b"drr", b"r\xf6ntgen/v\xf6l.nii.gz", b"--out", b"r\xf6ntgen/p\xe4.png", b"--json"],
        &[b"drr", b"r\xf6ntgen/v\xf6l.nii.gz", b"--out", b"r\xf6ntgen/p\xe4.png"],
        &[b"drr", b"r\xf6ntgen/volumes", b"--out", b"r\xf6ntgen/\xe4", b"--json"],
        &[b"preprocess", b"r\xf6ntgen/v\xf6l.nii.gz", b"--preset", b"x2ct", b"--out", b"r\xf6ntgen/pr\xe4p", b"--json"],
        &[b"train", b"r\xf6ntgen/t.toml", b"--json"],
        &[b"train", b"r\xf6ntgen/t.toml", b"--json"],
        &[predict, &[b"--json"]].concat(),
        predict,
        &[
            b"eval",
            b"--checkpoint",
            b"r\xf6ntgen/run/checkpoint.safetensors",
            b"--radiographs",
            b"r\xf6ntgen/set/ap.safetensors",
            b"--cache",
            b"r\xf6ntgen/train.cache.safetensors",
            b"--dataset",
            b"r\xf6ntgen",
            b"--split",
            b"train",
            b"--csv",
            b"r\xf6ntgen/\xe4.csv",
            b"--json",
        ],
        &[b"cache", b"text", b"--dataset", b"r\xf6ntgen", b"--out", b"r\xf6ntgen/t\xe4xt", b"--json"],
        &[b"check", b"r\xf6ntgen/g\xf6lden.safetensors", b"--json"],
        &[b"bench", b"optim", b"--seconds", b"0.01", b"--json"],
    ];
    for (i, arguments) in words.into_iter().enumerate() {
        run(arguments);
        if i == 0 {
            let volume = at.join("dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz");
            std::fs::copy(&volume, at.join(latin(b"v\xf6l.nii.gz"))).unwrap();
            std::fs::create_dir(at.join("volumes")).unwrap();
            std::fs::copy(&volume, at.join("volumes").join(latin(b"v\xf6l.nii.gz"))).unwrap();
            let golden = std::fs::read_dir(crate::support::checkout("tests/golden")).unwrap();
            let golden =
                golden.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors"));
            let smallest = golden
                .filter(|p| !p.to_string_lossy().contains("_from_python"))
                .min_by_key(|p| p.metadata().unwrap().len());
            std::fs::copy(smallest.unwrap(), at.join(latin(b"g\xf6lden.safetensors"))).unwrap();
            let config = configuration(Path::new("."), 1, 4).replace("./train/", "./set/");
            std::fs::write(at.join("t.toml"), config).unwrap();
        }
    }
}
