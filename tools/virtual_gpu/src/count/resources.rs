//! Registers of the project's kernels, which ptxas decides and `benches/RESOURCES.md` holds.

use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("../../../../benches/RESOURCES.md");
/// Targets of a cell's values.
const TARGETS: [u32; 4] = [80, 86, 89, 90];

/// Registers a thread of a kernel on a chip; none for a kernel that the table does not have.
pub fn registers(kernel: &str, capability: u32) -> Option<u32> {
    static ALL: OnceLock<HashMap<&str, [u32; 4]>> = OnceLock::new();
    let all = ALL.get_or_init(|| TABLE.lines().filter_map(row).collect());
    let target = TARGETS.iter().position(|target| *target == capability)?;
    all.get(kernel).map(|registers| registers[target])
}

/// Kernel and registers of a line such as `| name | 128 | 0 | 91 / 91 / 91 / 93 | ...`.
fn row(line: &str) -> Option<(&str, [u32; 4])> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let values: Vec<u32> = cells.get(4)?.split('/').map_while(|value| value.trim().parse().ok()).collect();
    let four = match values[..] {
        [one] => [one; 4],
        [a, b, c, d] => [a, b, c, d],
        _ => return None,
    };
    Some((cells[1], four))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_one_value_or_four() {
        assert_eq!(
            row("| a_kernel | 128 | 0 | 91 / 92 / 93 / 94 | 5 | 31 | 0, 0 |"),
            Some(("a_kernel", [91, 92, 93, 94]))
        );
        assert_eq!(row("| other | 256 | 0 | 48 | 5 | 62 | 0, 0 |"), Some(("other", [48; 4])));
        assert_eq!(row("| kernel | threads | shared, bytes | registers |"), None);
    }

    #[test]
    fn the_table_holds_the_kernels() {
        assert!(registers("attention_delta_bf16", 90).is_some());
        assert_eq!(registers("nobody", 90), None);
    }
}
