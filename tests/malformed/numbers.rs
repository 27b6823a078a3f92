//! Configurations and options: values that are no numbers, out of range or of another kind, and keys that do not exist.

use super::workspace::{CONFIGURATION, Workspace};
use super::{Case, Demand, draws};

/// Keys of a configuration and what they must not be; lines for the table named.
#[rustfmt::skip] // one key a line
const KEYS: [(&str, &str, &[&str]); 24] = [
    ("", "epochs", &["0", "-1", "1.5", "nan", "\"two\""]),
    ("", "batch", &["0", "1", "-4", "9223372036854775807"]),
    ("", "micro_batch", &["0", "1", "-2"]),
    ("", "checkpoint_steps", &["0", "-1"]),
    ("", "seed", &["-1", "1.5"]),
    ("", "dtype", &["\"f8\"", "16"]),
    ("", "weights", &["\"absent.safetensors\"", "\"train.cache.safetensors\"", "\"good.toml\""]),
    ("", "epoch", &["3"]),
    ("model", "name", &["\"resnet9\"", "\"\"", "18"]),
    ("model", "width", &["0", "-4", "4000000000"]),
    ("model", "embedding", &["0", "-1", "77"]),
    ("model", "depth", &["18"]),
    ("data", "image_size", &["0", "31", "5000", "-32", "32.5"]),
    ("data", "teacher", &["\"somebody else\""]),
    ("data", "radiographs", &["\"absent\"", "\"train.cache.safetensors\""]),
    ("data", "cache", &["\"absent\"", "\"train/ap.safetensors\"", "\"valid.cache.safetensors\""]),
    ("data", "normalization", &["{ mean = [0.5, 0.5, 0.5], std = [0.0, 0.5, 0.5] }", "{ mean = [nan, 0.5, 0.5], std = [0.5, 0.5, 0.5] }", "{ mean = [0.5], std = [0.5] }"]),
    ("loss", "temperature", &["0", "-0.07", "nan", "inf", "1e-300"]),
    ("loss", "beta", &["nan", "inf"]),
    ("optimizer", "lr", &["0.0", "-1e-3", "nan", "inf"]),
    ("optimizer", "eps", &["inf", "nan", "-1e-8"]),
    ("optimizer", "betas", &["[0.9, 1.0]", "[-0.1, 0.9]", "[nan, 0.9]", "[0.9]"]),
    ("optimizer", "weight_decay", &["-1.0", "nan", "inf"]),
    ("optimizer", "max_norm", &["-1.0", "nan"]),
];

/// Keys whose values are paths.
const PATHS: [&str; 3] = ["weights", "radiographs", "cache"];

/// Options and what they must not be; the command's other words.
#[rustfmt::skip] // one option a line
const OPTIONS: [(&str, &str, &[&str]); 18] = [
    ("drr VOLUME --out x.png", "--size", &["0x0", "32", "-3x4", "99999999x99999999"]),
    ("drr VOLUME --out x.png --mode attenuation --geometry cone", "--sdd", &["nan", "-1", "0", "inf"]),
    ("drr VOLUME --out x.png --mode attenuation --geometry cone", "--sod", &["nan", "0", "-5"]),
    ("drr VOLUME --out x.png --mode film", "--primary-angle", &["nan", "inf"]),
    ("drr VOLUME --out x.png --mode transmission", "--energy", &["nan", "0", "-60", "1e9"]),
    ("drr VOLUME --out x.png", "--projector", &["siddon"]),
    ("drr VOLUME --out x.png", "--sod", &["1000"]),
    ("drr VOLUME --out x.png", "--step", &["0.5"]),
    ("drr VOLUME --out x.png", "--metadata", &["nowhere.csv"]),
    ("drr VOLUME --out x.png", "--view", &["above", ""]),
    ("drr --dataset . --split valid --out x", "--shard", &["0/2", "3/2", "1/0", "a/b"]),
    ("preprocess VOLUME --out x.safetensors --preset", "x2ct9", &[""]),
    ("phantom --out x --train 1 --valid 1", "--spacing", &["0", "nan", "-1", "1e9"]),
    ("phantom --out x --train 1 --valid 1", "--shape", &["0x1x1", "1x1", "99999x99999x99999"]),
    ("eval --cache valid.cache.safetensors --dataset .", "--scale", &["nan", "inf", "-1", "0"]),
    ("bench pointwise", "--seconds", &["nan", "-1", "inf", "0"]),
    ("cache text --dataset . --split valid --out x", "--features", &["0", "-1", "99999999999"]),
    ("model resnet18", "--size", &["0", "-1", "nan"]),
];

/// The configuration with one key more, or with another value.
fn with(table: &str, key: &str, value: &str) -> String {
    let line = format!("{key} = {value}");
    let mut text: Vec<String> = CONFIGURATION.lines().map(String::from).collect();
    let begin = if table.is_empty() { Some(0) } else { text.iter().position(|l| *l == format!("[{table}]")) };
    let Some(begin) = begin else { return format!("{CONFIGURATION}[{table}]\n{line}\n") };
    let end = text[begin + 1..].iter().position(|l| l.starts_with('[')).map_or(text.len(), |n| begin + 1 + n);
    match (begin..end).find(|&i| text[i].starts_with(&format!("{key} ="))) {
        Some(i) => text[i] = line,
        None if table.is_empty() => text.insert(0, line),
        None => text.insert(begin + 1, line),
    }
    text.join("\n") + "\n"
}

pub fn cases(workspace: &Workspace) -> Vec<Case> {
    let mut cases = Vec::new();
    for (table, key, values) in KEYS {
        for value in values {
            let (name, out) = (format!("c{}.toml", cases.len()), format!("fresh{}", cases.len()));
            workspace.write(&name, with(table, key, value).replace("\"fresh\"", &format!("{out:?}")).as_bytes());
            // What a path names is at fault itself.
            let file = if PATHS.contains(&key) { format!("{name}|{}", value.trim_matches('"')) } else { name.clone() };
            let key = if PATHS.contains(&key) { "" } else { key };
            let case = Case::new(format!("{key} = {value}"), format!("train {name}"), Demand::Refused, &[&file, key]);
            cases.push(case.writing(format!("{out}/checkpoint.safetensors")));
        }
    }
    // Cut anywhere, a configuration is refused where something is missing.
    for index in 0..6 {
        let name = format!("cut{index}.toml");
        let keep = 1 + draws(7, index).below(CONFIGURATION.find("radiographs").unwrap());
        workspace.write(&name, &CONFIGURATION.as_bytes()[..keep]);
        cases.push(Case::new(format!("cut after {keep} bytes"), format!("train {name}"), Demand::Refused, &[&name]));
    }
    let volume = "dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz";
    for (command, option, values) in OPTIONS {
        for value in values {
            // An option's value may begin with a minus sign.
            let join = if option.starts_with("--") { "=" } else { "" };
            let command = command.replace("VOLUME", volume).replace("--out x", &format!("--out x{}", cases.len()));
            let command = format!("{command} {option}{join}{value}");
            let output = command.split_whitespace().skip_while(|w| *w != "--out").nth(1).map(String::from);
            let mut case = Case::new(format!("{option} {value}"), command, Demand::Refused, &[option]);
            case.output = output.map(Into::into);
            cases.push(case);
        }
    }
    cases
}
