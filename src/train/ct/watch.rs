//! What a teacher's work is told to.

use crate::Result;
use crate::data::volumes::LeftOut;

/// Who is told how far a teacher's work is, and decides about volumes that cannot be used. Any `FnMut(usize)` counts, and has the
/// first such volume end the work.
pub trait Watch {
    /// So many volumes are behind: embedded, known before, or left out.
    fn done(&mut self, volumes: usize);

    /// A volume cannot be read, or has no text: the work goes on without it.
    ///
    /// # Errors
    /// It does not, and ends with this error.
    fn left_out(&mut self, bad: LeftOut) -> Result<()> {
        Err(bad.error)
    }
}

impl<F: FnMut(usize)> Watch for F {
    fn done(&mut self, volumes: usize) {
        self(volumes);
    }
}
