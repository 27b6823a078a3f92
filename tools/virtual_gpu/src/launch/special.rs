//! Values of special registers (PTX ISA, "Special Registers").

use super::Launch;
use crate::lower::SPECIALS;
use crate::warp::Warp;

/// Where a block stands in its launch.
#[derive(Clone, Copy, Default)]
pub struct Seat {
    /// The block in the grid, and its number there.
    pub block: [u32; 3],
    pub number: u64,
    /// The cluster in the grid of clusters, and the block in its cluster.
    pub cluster: [u32; 3],
    pub in_cluster: [u32; 3],
    /// The rank of the block in its cluster.
    pub rank: u32,
    /// Memory through which the blocks of a cooperative launch meet.
    pub workspace: u64,
}

impl Seat {
    /// The block of a rank in the `cluster`-th cluster of a launch.
    pub fn new(l: &Launch, cluster: u64, rank: u32, workspace: u64) -> Seat {
        let place = |index: u64, [x, y, _]: [u32; 3]| {
            let (x, y) = (x as u64, y as u64);
            [(index % x) as u32, (index / x % y) as u32, (index / (x * y)) as u32]
        };
        let cluster = place(cluster, l.clusters_of_grid());
        let in_cluster = place(rank as u64, l.cluster);
        let block = [0, 1, 2].map(|axis| cluster[axis] * l.cluster[axis] + in_cluster[axis]);
        let [x, y, z] = block.map(u64::from);
        let number = x + l.grid[0] as u64 * (y + l.grid[1] as u64 * z);
        Seat { block, number, cluster, in_cluster, rank, workspace }
    }
}

/// A value of a special register: that of a thread, or the same in the whole block.
enum Value {
    Thread(fn(&Launch, u32) -> u32),
    Block(u32),
}

/// Sets the special registers of a warp.
pub fn set(l: &Launch, w: &mut Warp, seat: &Seat) {
    let first = 32 * w.index;
    for (values, name) in w.special.iter_mut().zip(SPECIALS) {
        match value(l, name, seat) {
            Value::Block(value) => values.fill(value),
            Value::Thread(of) => values.iter_mut().zip(first..).for_each(|(value, thread)| *value = of(l, thread)),
        }
    }
}

fn value(l: &Launch, name: &str, seat: &Seat) -> Value {
    let axis = match name.rsplit_once('.') {
        Some((_, "y")) => 1,
        Some((_, "z")) => 2,
        _ => 0,
    };
    Value::Block(match name.split('.').next().unwrap_or_default() {
        "%tid" => {
            return Value::Thread(match axis {
                0 => |l, thread| thread % l.block[0],
                1 => |l, thread| thread / l.block[0] % l.block[1],
                _ => |l, thread| thread / (l.block[0] * l.block[1]),
            });
        }
        "%laneid" => return Value::Thread(|_, thread| thread % 32),
        "%warpid" => return Value::Thread(|_, thread| thread / 32),
        "%ntid" => l.block[axis],
        "%ctaid" => seat.block[axis],
        "%nctaid" => l.grid[axis],
        "%clusterid" => seat.cluster[axis],
        "%nclusterid" => l.clusters_of_grid()[axis],
        "%cluster_ctaid" => seat.in_cluster[axis],
        "%cluster_nctaid" => l.cluster[axis],
        "%cluster_ctarank" => seat.rank,
        "%cluster_nctarank" => l.cluster_blocks(),
        "%is_explicit_cluster" => l.explicit_cluster as u32,
        "%envreg1" => (seat.workspace >> 32) as u32,
        "%envreg2" => seat.workspace as u32,
        "%nsmid" => 108,
        "%nwarpid" => l.threads().div_ceil(32),
        "%dynamic_smem_size" => l.dynamic_shared,
        _ => 0,
    })
}
