//! Orientation letters on pictures: which side of the patient lies where.

use std::fmt;

/// Direction cosine from which a direction is named: 10 degrees off the plane of the others.
const NAMED: f64 = 0.17;

/// A direction by its letters, the strongest first: R L (right, left), A P (anterior, posterior), H F (head, foot), as DICOM's
/// Patient Orientation (0020,0020) names them. `RA` points to the right and a little to the front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label {
    letters: [u8; 3],
}

impl Label {
    /// The label of a world direction (RAS+, a unit vector): every axis with a share of at least 10 degrees.
    pub fn of(direction: [f64; 3]) -> Self {
        const LETTERS: [[u8; 2]; 3] = [*b"RL", *b"AP", *b"HF"];
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| direction[b].abs().total_cmp(&direction[a].abs()));
        let mut letters = [0; 3];
        for (slot, axis) in letters.iter_mut().zip(order.into_iter().filter(|&a| direction[a].abs() >= NAMED)) {
            *slot = LETTERS[axis][usize::from(direction[axis] < 0.0)];
        }
        Label { letters }
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.letters.into_iter().filter(|&b| b != 0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().try_for_each(|letter| write!(f, "{}", char::from(letter)))
    }
}

/// The labels of a picture's edges. Left and right stand in the upper corners, where a chest film has its lead marker; top
/// and bottom are only named when the head is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters {
    /// Towards the image's left edge.
    pub left: Label,
    /// Towards its right edge.
    pub right: Label,
    /// Towards its top and bottom, unless the head is up.
    pub vertical: Option<[Label; 2]>,
}

impl Letters {
    /// For a picture whose rows go `down` and whose columns go `right` (world directions).
    pub fn of(down: [f64; 3], right: [f64; 3]) -> Self {
        let opposite = |v: [f64; 3]| v.map(|x| -x);
        let (top, bottom) = (Label::of(opposite(down)), Label::of(down));
        let upright = top.letters[0] == b'H';
        Letters {
            left: Label::of(opposite(right)),
            right: Label::of(right),
            vertical: (!upright).then_some([top, bottom]),
        }
    }

    /// Draws into levels of `width` columns: white with a black rim, so that they read on any ground. `white` is the
    /// brightest level. A picture too small for them (24 pixels a side) stays as it is.
    pub(crate) fn draw(&self, levels: &mut [u16], width: usize, white: u16) {
        let height = levels.len() / width;
        let side = height.min(width);
        if side < 24 {
            return;
        }
        let scale = (side / 140).max(1);
        let margin = 2 * scale + 1;
        let mut canvas = Canvas { levels, width, height, white, scale };
        let extent = |label: &Label| label.bytes().count() * (COLUMNS + 1) * scale - scale;
        let middle = |label: &Label| (width.saturating_sub(extent(label))) / 2;
        let far = |label: &Label| width.saturating_sub(margin + extent(label));
        canvas.text(&self.left, margin, margin);
        canvas.text(&self.right, far(&self.right), margin);
        if let Some([top, bottom]) = &self.vertical {
            canvas.text(top, middle(top), margin);
            canvas.text(bottom, middle(bottom), height - margin - ROWS * scale);
        }
    }
}

const COLUMNS: usize = 5;
const ROWS: usize = 7;

/// The six letters, seven rows of five pixels, the leftmost in the highest bit.
fn glyph(letter: u8) -> [u8; ROWS] {
    match letter {
        b'R' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
        b'L' => [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111],
        b'A' => [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        b'P' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000],
        b'H' => [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        _ => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000],
    }
}

struct Canvas<'a> {
    levels: &'a mut [u16],
    width: usize,
    height: usize,
    white: u16,
    scale: usize,
}

impl Canvas<'_> {
    /// Writes a label with its upper left corner at (x, y).
    fn text(&mut self, label: &Label, x: usize, y: usize) {
        let mut dots = Vec::new();
        for (i, letter) in label.bytes().enumerate() {
            for (row, bits) in glyph(letter).into_iter().enumerate() {
                let lit = (0..COLUMNS).filter(|column| bits >> (COLUMNS - 1 - column) & 1 == 1);
                dots.extend(lit.map(|c| (x + (i * (COLUMNS + 1) + c) * self.scale, y + row * self.scale)));
            }
        }
        // All rims before all strokes: a rim must not eat a neighbouring stroke.
        for &(x, y) in &dots {
            self.square(x.saturating_sub(1), y.saturating_sub(1), self.scale + 2, 0);
        }
        for &(x, y) in &dots {
            self.square(x, y, self.scale, self.white);
        }
    }

    fn square(&mut self, x: usize, y: usize, side: usize, level: u16) {
        let (right, bottom) = ((x + side).min(self.width), (y + side).min(self.height));
        for row in y..bottom {
            self.levels[row * self.width..][x.min(right)..right].fill(level);
        }
    }
}
