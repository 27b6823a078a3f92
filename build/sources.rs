//! What is compiled, and when it has to be compiled again.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The file's name without extension.
pub fn stem(path: &Path) -> String {
    path.file_stem().expect("a file name").to_string_lossy().into_owned()
}

/// A digest of the source, of every header it includes, and of the command.
pub fn digest(source: &Path, command: &str) -> String {
    let mut files = vec![source.to_path_buf()];
    let mut hasher = DefaultHasher::new();
    command.hash(&mut hasher);
    let mut next = 0;
    while next < files.len() {
        let text = std::fs::read_to_string(&files[next]).unwrap_or_else(|e| panic!("{}: {e}", files[next].display()));
        text.hash(&mut hasher);
        for header in includes(&files[next], &text) {
            if !files.contains(&header) {
                files.push(header);
            }
        }
        next += 1;
    }
    format!("{:016x}", hasher.finish())
}

/// The project's files that a file includes: beside it, or below `kernels`.
fn includes(file: &Path, text: &str) -> Vec<PathBuf> {
    let quoted = |line: &str| line.trim_start().strip_prefix("#include \"")?.split('"').next().map(String::from);
    let folder = file.parent().expect("a file in a folder");
    let find = |name: String| {
        let beside = folder.join(&name);
        if beside.is_file() { beside } else { Path::new("kernels").join(name) }
    };
    text.lines().filter_map(quoted).map(find).collect()
}

/// Runs `job` over `items` on as many threads as cargo grants.
pub fn in_parallel<T: Sync>(items: &[T], job: impl Fn(&T) + Sync) {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let next = Mutex::new(items.iter());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let item = next.lock().expect("no job panicked").next();
                    match item {
                        Some(item) => job(item),
                        None => break,
                    }
                }
            });
        }
    });
}
