//! How blocks walk a `[rows, channels]` matrix with contiguous channels. See `kernels/common/columns.h`.

pub use super::shared::Walk;
use super::{DType, DevicePtr, Grid, KernelConfig, Launcher};

/// Which items the threads of a block visit. Results agree up to the order of summation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Neighbouring threads take neighbouring items: whole lines for a warp.
    Interleaved,
    /// A thread takes consecutive items: what a processor's cache and prefetcher like.
    Blocked,
}

impl Order {
    /// What suits the device.
    pub fn of(launcher: &dyn Launcher) -> Self {
        if launcher.properties().compute_capability == 0 { Order::Blocked } else { Order::Interleaved }
    }
}

/// Channel vectors of a block at most: 32 of 16 bytes are four whole lines of a row.
const MAX_COLUMNS: usize = 32;

impl Walk {
    /// The walk over a matrix, with at least `rows_per_thread` rows a thread and at most `max_blocks` row ranges. Vectors
    /// of 16 bytes are used where every row of every pointer starts at a multiple of 16.
    pub fn new(
        config: &KernelConfig,
        order: Order,
        dtype: DType,
        [rows, channels]: [usize; 2],
        pointers: &[DevicePtr],
        rows_per_thread: usize,
        max_blocks: usize,
    ) -> Self {
        let width = 16 / dtype.size();
        let vector = channels.is_multiple_of(width) && pointers.iter().all(|p| p.0.is_multiple_of(16));
        let vectors = if vector { channels / width } else { channels }.max(1);
        let columns = vectors.div_ceil(vectors.div_ceil(MAX_COLUMNS));
        let lanes = config.threads as usize / columns;
        let rows_per_thread = rows_per_thread.max(rows.div_ceil(lanes * max_blocks)) as u32;
        let (columns, lanes) = (columns as u32, lanes as u32);
        let (lane_step, row_step) = match order {
            Order::Interleaved => (1, lanes),
            Order::Blocked => (rows_per_thread, 1),
        };
        Walk { columns, lanes, rows_per_thread, lane_step, row_step, vector: vector as u32 }
    }

    /// Rows of a block.
    pub fn block_rows(&self) -> usize {
        self.lanes as usize * self.rows_per_thread as usize
    }

    /// Row ranges by column tiles.
    pub fn grid(&self, dtype: DType, [rows, channels]: [usize; 2]) -> Grid {
        let width = if self.vector == 1 { 16 / dtype.size() } else { 1 };
        let tiles = channels.div_ceil(width * self.columns as usize);
        Grid([rows.div_ceil(self.block_rows()).max(1) as u32, tiles.max(1) as u32, 1])
    }
}
