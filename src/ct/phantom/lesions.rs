//! What each abnormality looks like: its signature in HU as primitives.
//!
//! Those inside aerated lung are painted before the mediastinum, so that no lesion eats into the heart; the solid ones
//! (heart, nodes, calcium, devices) after it.

use super::anatomy::Anatomy;
use super::findings::{Abnormality, Finding, Side, Zone};
use super::organs::{AIR, HEART_AXIS, aorta, heart_chambers, hilum};
use super::shapes::{Paint, Primitive, Shape, Vec3, add, apply, frame, scale, sub, transpose, unit};
use crate::philox::Rng;

const GEOMETRY: u32 = 0x200;
const CALCIUM: f32 = 900.0;
const METAL: f32 = 3000.0;
const FLUID: f32 = 12.0;
const TISSUE: f32 = 35.0;

/// The primitives of one patient's findings.
#[derive(Default)]
pub(super) struct Lesions {
    /// To paint into aerated lung, before the mediastinum.
    pub lung: Vec<Primitive>,
    /// Fluid around the heart: beneath the heart, above everything else in the mediastinum.
    pub pericardium: Vec<Primitive>,
    /// To paint last.
    pub solid: Vec<Primitive>,
}

impl Lesions {
    pub fn of(findings: &[Finding], body: &Anatomy, seed: u64, index: u64) -> Self {
        let mut lesions = Lesions::default();
        for finding in findings {
            let rng = Rng::new(seed, index, GEOMETRY + finding.kind.index() as u32);
            Painter { finding, body, rng, out: &mut lesions }.paint();
        }
        lesions
    }
}

struct Painter<'a> {
    finding: &'a Finding,
    body: &'a Anatomy,
    rng: Rng,
    out: &'a mut Lesions,
}

impl Painter<'_> {
    fn paint(&mut self) {
        match self.finding.kind {
            Abnormality::MedicalMaterial => self.device(),
            Abnormality::ArterialWallCalcification => self.aortic_calcium(),
            // The heart itself has grown: see `Anatomy::draw`.
            Abnormality::Cardiomegaly => {}
            Abnormality::PericardialEffusion => self.pericardial_fluid(),
            Abnormality::CoronaryArteryWallCalcification => self.coronary_calcium(),
            Abnormality::HiatalHernia => self.hernia(),
            Abnormality::Lymphadenopathy => self.nodes(),
            Abnormality::Emphysema => self.bullae(),
            Abnormality::Atelectasis => self.collapse(),
            Abnormality::LungNodule => self.nodules(),
            Abnormality::LungOpacity => self.ground_glass(),
            Abnormality::PulmonaryFibroticSequela => self.scars(),
            Abnormality::PleuralEffusion => self.pleural_fluid(),
            Abnormality::MosaicAttenuationPattern => self.mosaic(),
            Abnormality::PeribronchialThickening => self.cuffs(),
            Abnormality::Consolidation => self.consolidation(),
            Abnormality::Bronchiectasis => self.dilated_bronchi(),
            Abnormality::InterlobularSeptalThickening => self.septa(),
        }
    }

    /// `low` at severity 0 to `high` at 1.
    fn graded(&self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.finding.severity
    }

    fn count(&self, low: f32, high: f32) -> usize {
        self.graded(low, high).round() as usize
    }

    fn signs(&self) -> &'static [f32] {
        self.finding.side.signs()
    }

    /// A place in the lung of a side, in the finding's zone, at least `margin` below the pleura.
    fn place(&mut self, sign: f32, margin: f32) -> Vec3 {
        let (low, high) = match self.finding.zone {
            Zone::Upper => (46.0, 104.0),
            Zone::Middle => (-6.0, 46.0),
            Zone::Lower => (-92.0, -14.0),
            Zone::Whole => (-92.0, 104.0),
        };
        let lung = *self.body.lung(sign);
        let mut margin = margin;
        for _ in 0..96 {
            let p = [sign * self.rng.range(22.0, 122.0), self.rng.range(-78.0, 88.0), self.rng.range(low, high)];
            if lung.depth(p[0], p[1], p[2]) > margin && !self.in_heart(p) {
                return p;
            }
            margin *= 0.98;
        }
        add(hilum(sign), [sign * 30.0, 0.0, 0.5 * (low + high)])
    }

    fn in_heart(&self, p: Vec3) -> bool {
        heart_chambers(self.body).iter().any(|(centre, radii)| {
            let d = sub(p, *centre);
            (0..3).map(|i| (d[i] / (radii[i] + 6.0)).powi(2)).sum::<f32>() < 1.0
        })
    }

    fn direction(&mut self) -> Vec3 {
        unit(self.rng.in_ball())
    }

    fn lung(&mut self, primitive: Primitive, sign: f32) {
        self.out.lung.push(primitive.side(sign));
    }

    fn solid(&mut self, hu: f32, centre: Vec3, radii: Vec3) {
        self.out.solid.push(Primitive::ellipsoid(Paint::Organ, hu, centre, radii));
    }

    fn wire(&mut self, points: &[Vec3], radius: f32) {
        for pair in points.windows(2) {
            self.out.solid.push(Primitive::capsule(Paint::Organ, METAL, pair[0], pair[1], radius, radius));
        }
    }

    /// A pacemaker with its lead on either side, or the wires of a sternotomy.
    fn device(&mut self) {
        if self.finding.side == Side::Midline {
            for level in 0..self.count(4.0, 7.0) {
                let z = 66.0 - 17.0 * level as f32;
                let ring: Vec<Vec3> = (0..9)
                    .map(|i| {
                        let (s, c) = (i as f32 / 8.0 * std::f32::consts::TAU).sin_cos();
                        [18.0 * c, -86.0 + 8.0 * s, z + 5.0 * s]
                    })
                    .collect();
                self.wire(&ring, 2.2);
            }
            return;
        }
        for sign in self.signs() {
            let centre = [sign * self.rng.range(62.0, 78.0), -88.0, self.rng.range(62.0, 84.0)];
            let size = self.graded(22.0, 29.0);
            self.solid(METAL, centre, [size, 8.0, 0.85 * size]);
            let lead = [
                centre,
                [sign * 52.0, -66.0, 102.0],
                [sign * 20.0, -20.0, 90.0],
                [-20.0, -10.0, 60.0],
                [-20.0, -14.0, -20.0],
                [4.0, -34.0, -58.0],
                [30.0 + self.body.heart_shift, -40.0, -64.0],
            ];
            self.wire(&lead, 2.0);
        }
    }

    /// Plaques on the wall of the arch and the descending aorta.
    fn aortic_calcium(&mut self) {
        let line = aorta(self.body);
        for _ in 0..self.count(14.0, 40.0) {
            // Ascending aorta is spared, the arch is worst.
            let segment = 2 + self.rng.below(5);
            let t = self.rng.unit();
            let (a, ra) = line[segment];
            let (b, rb) = line[segment + 1];
            let centre = add(scale(a, 1.0 - t), scale(b, t));
            let radius = ra + (rb - ra) * t;
            let axes = frame(sub(b, a));
            let (s, c) = self.rng.range(0.0, std::f32::consts::TAU).sin_cos();
            let outward = add(scale(axes[1], c), scale(axes[2], s));
            let size = self.graded(3.2, 4.8) * self.rng.range(0.8, 1.3);
            let plaque = Primitive::ellipsoid(
                Paint::Organ,
                CALCIUM,
                add(centre, scale(outward, radius)),
                [1.6 * size, 0.8 * size, 1.6 * size],
            );
            let tangent = unit(sub(b, a));
            self.out.solid.push(plaque.turned([tangent, outward, super::shapes::cross(tangent, outward)]));
        }
    }

    /// Calcium along the left anterior descending, circumflex and right coronary arteries, on the heart's surface.
    fn coronary_calcium(&mut self) {
        let (centre, radii) = heart_chambers(self.body)[0];
        let to_reference = transpose(&frame(HEART_AXIS));
        // Great-circle arcs on the main chamber, in its own axes.
        let arcs: [(Vec3, Vec3); 3] = [
            ([-0.75, 0.20, 0.62], [0.60, 0.30, 0.75]),
            ([-0.75, 0.20, 0.62], [-0.10, 0.98, 0.10]),
            ([-0.70, -0.55, 0.45], [-0.20, -0.85, -0.50]),
        ];
        for _ in 0..self.count(14.0, 34.0) {
            let (from, to) = arcs[self.rng.below(3)];
            let t = self.rng.unit();
            let on_sphere = unit(add(scale(from, 1.0 - t), scale(to, t)));
            let local = std::array::from_fn(|i| on_sphere[i] * (radii[i] + 1.0));
            let size = self.graded(3.2, 4.6) * self.rng.range(0.8, 1.4);
            let p = add(centre, apply(&to_reference, local));
            self.solid(CALCIUM, p, [size, size, size]);
        }
    }

    /// A shell of fluid that hangs towards the diaphragm.
    fn pericardial_fluid(&mut self) {
        let thick = self.graded(8.0, 22.0);
        let axes = frame(HEART_AXIS);
        for (i, (centre, radii)) in heart_chambers(self.body).into_iter().enumerate() {
            let sag = add(centre, [0.0, 0.0, -0.25 * thick]);
            let shell = Primitive::ellipsoid(Paint::Organ, FLUID, sag, radii.map(|r| r + thick));
            self.out.pericardium.push(if i == 0 { shell.turned(axes) } else { shell });
        }
        let base = Primitive::ellipsoid(
            Paint::Organ,
            FLUID,
            [4.0, -22.0, -62.0],
            [56.0 * self.body.heart + 0.9 * thick, 40.0, 26.0],
        );
        self.out.pericardium.push(base);
    }

    /// Stomach above the diaphragm, behind the heart, with its air-fluid level.
    fn hernia(&mut self) {
        let r = self.graded(22.0, 42.0);
        let centre = [self.rng.range(-12.0, 16.0), 36.0, self.rng.range(-74.0, -60.0) + 0.3 * r];
        self.solid(TISSUE, centre, [r, 0.85 * r, 0.95 * r]);
        self.solid(FLUID, add(centre, [0.0, 2.0, 0.0]), [0.85 * r, 0.7 * r, 0.8 * r]);
        self.solid(-960.0, add(centre, [0.0, -0.15 * r, 0.12 * r]), [0.72 * r, 0.52 * r, 0.62 * r]);
    }

    /// Enlarged nodes at one hilum and its side of the mediastinum, or below the carina and in the aortic window.
    fn nodes(&mut self) {
        let stations: &[Vec3] = match self.finding.side {
            Side::Left => &[[50.0, 10.0, 12.0], [34.0, -2.0, 36.0], [46.0, 18.0, -8.0]],
            Side::Right => &[[-50.0, 10.0, 6.0], [-28.0, 2.0, 52.0], [-46.0, 18.0, -14.0]],
            _ => &[[0.0, 22.0, 14.0], [-28.0, 2.0, 62.0], [32.0, 0.0, 40.0], [0.0, -40.0, 66.0]],
        };
        for i in 0..self.count(4.0, 9.0) {
            let around = scale(self.rng.in_ball(), 10.0);
            let size = self.graded(12.0, 20.0) * self.rng.range(0.8, 1.2);
            self.solid(TISSUE + 10.0, add(stations[i % stations.len()], around), [size, 0.9 * size, 1.15 * size]);
        }
    }

    /// Air pockets, largest in the zone concerned; hyperinflation is in the anatomy.
    fn bullae(&mut self) {
        for sign in [-1.0, 1.0] {
            for _ in 0..self.count(10.0, 34.0) {
                let radius = self.graded(6.0, 14.0) * self.rng.range(0.6, 1.3);
                let p = self.place(sign, 0.5 * radius);
                self.lung(Primitive::sphere(Paint::Lung, AIR, p, radius), sign);
            }
        }
    }

    /// Either flat bands, or a lobe collapsed against the hilum; the raised diaphragm is in the anatomy.
    fn collapse(&mut self) {
        for &sign in self.signs() {
            if self.finding.variant < 0.6 {
                for _ in 0..self.count(1.0, 4.0) {
                    let p = self.place(sign, 8.0);
                    let radii = [self.graded(24.0, 42.0), self.rng.range(20.0, 30.0), self.graded(2.6, 5.0)];
                    let tilt = [self.rng.range(0.8, 1.0) * sign, self.rng.range(-0.2, 0.2), self.rng.range(-0.5, 0.5)];
                    let band = Primitive::ellipsoid(Paint::Lung, TISSUE, p, radii).turned(frame(tilt));
                    self.lung(band, sign);
                }
            } else {
                let z: f32 = match self.finding.zone {
                    Zone::Upper => 60.0,
                    Zone::Middle => 0.0,
                    _ => -62.0,
                };
                let size = self.graded(18.0, 34.0);
                let centre = [sign * 30.0, self.rng.range(10.0, 40.0), z];
                let wedge = Primitive::ellipsoid(Paint::Lung, TISSUE, centre, [0.9 * size, 1.2 * size, 1.4 * size]);
                self.lung(wedge.turned(frame([sign * 0.8, 0.2, 0.5 * z.signum()])).soft(8.0), sign);
            }
        }
    }

    /// Round, sharp, solid.
    fn nodules(&mut self) {
        let signs = self.signs();
        let count = signs.len().max(3 + self.rng.below(4));
        for i in 0..count {
            let sign = signs[i % signs.len()];
            let radius = self.graded(11.0, 19.0) * if i == 0 { 1.0 } else { self.rng.range(0.6, 0.95) };
            let p = self.place(sign, 0.8 * radius);
            self.lung(Primitive::sphere(Paint::Lung, TISSUE, p, radius), sign);
        }
    }

    /// Hazy patches through which vessels remain visible.
    fn ground_glass(&mut self) {
        for &sign in self.signs() {
            for _ in 0..self.count(1.0, 4.0) {
                let p = self.place(sign, 12.0);
                let r = self.graded(24.0, 38.0) * self.rng.range(0.8, 1.2);
                let radii = [r, self.rng.range(0.9, 1.3) * r, self.rng.range(0.7, 1.1) * r];
                let haze = Primitive::ellipsoid(Paint::LungAdd, self.graded(260.0, 420.0), p, radii);
                self.lung(haze.soft(0.7 * r), sign);
            }
        }
    }

    /// Streaks that fan from the hilum, with a pleural cap or basal plaque where they end.
    fn scars(&mut self) {
        for &sign in self.signs() {
            let upper = self.finding.zone == Zone::Upper;
            let far = if upper { [sign * 58.0, 14.0, 94.0] } else { [sign * 86.0, 30.0, -72.0] };
            let near = add(hilum(sign), [sign * 16.0, 6.0, if upper { 30.0 } else { -26.0 }]);
            for _ in 0..self.count(16.0, 32.0) {
                let a = add(near, scale(self.rng.in_ball(), 18.0));
                let b = add(far, scale(self.rng.in_ball(), 34.0));
                let r = self.graded(2.4, 3.6);
                self.lung(Primitive::capsule(Paint::Lung, TISSUE, a, b, r, 1.3 * r), sign);
            }
            let cap = self.graded(26.0, 40.0);
            let plaque = Primitive::ellipsoid(
                Paint::Lung,
                TISSUE - 60.0,
                add(far, [0.0, 0.0, if upper { 14.0 } else { -10.0 }]),
                [1.2 * cap, 1.2 * cap, 0.5 * cap],
            );
            self.lung(plaque.soft(10.0), sign);
        }
    }

    /// Free fluid: it lies behind and below, and climbs the chest wall.
    fn pleural_fluid(&mut self) {
        for &sign in self.signs() {
            let lung = *self.body.lung(sign);
            let depth = self.graded(22.0, 76.0) * self.rng.range(0.9, 1.1);
            let normal = unit([0.0, 0.50, -0.86]);
            // The deepest point of the pleural space lies behind, in the recess.
            let deepest = 0.50 * (super::anatomy::LUNG_CENTRE_Y + 0.8 * lung.half_depth) - 0.86 * (lung.base + 6.0);
            let shape = Shape::Pool {
                normal,
                level: deepest - depth,
                centre_x: lung.centre_x,
                reach: lung.half_width,
                rise: 14.0,
            };
            self.lung(Primitive { shape, hu: FLUID, paint: Paint::Lung, soft: 0.0, side: sign }, sign);
        }
    }

    /// Patches of hazy and of trapped lung side by side.
    fn mosaic(&mut self) {
        for sign in [-1.0, 1.0] {
            for patch in 0..26 {
                let p = self.place(sign, 2.0);
                let r = self.rng.range(13.0, 22.0);
                let change = if patch % 2 == 0 { self.graded(170.0, 290.0) } else { -self.graded(60.0, 100.0) };
                let radii = [r, 1.4 * r, r];
                self.lung(Primitive::ellipsoid(Paint::LungAdd, change, p, radii).soft(4.0), sign);
            }
        }
    }

    /// Thick-walled bronchi that fan from the hilum.
    fn cuffs(&mut self) {
        for &sign in self.signs() {
            let root = hilum(sign);
            for _ in 0..self.count(20.0, 36.0) {
                let away =
                    unit([sign * self.rng.range(0.3, 1.0), self.rng.range(-0.6, 0.7), self.rng.range(-1.0, 0.9)]);
                let a = add(root, scale(away, self.rng.range(8.0, 24.0)));
                let b = add(a, scale(away, self.rng.range(32.0, 56.0)));
                let wall = self.graded(6.0, 8.4);
                self.lung(Primitive::capsule(Paint::Lung, TISSUE - 20.0, a, b, wall, 0.75 * wall), sign);
                self.lung(Primitive::capsule(Paint::Lung, AIR, a, b, 0.45 * wall, 0.35 * wall), sign);
            }
        }
    }

    /// Airless lung with open bronchi.
    fn consolidation(&mut self) {
        for &sign in self.signs() {
            let core = self.place(sign, 16.0);
            let r = self.graded(22.0, 40.0);
            for _ in 0..4 {
                let centre = add(core, scale(self.rng.in_ball(), 0.6 * r));
                let radii = [0.75 * r, 0.85 * r, self.rng.range(0.6, 0.85) * r];
                self.lung(Primitive::ellipsoid(Paint::Lung, TISSUE, centre, radii).soft(7.0), sign);
            }
            let towards = unit(sub(core, hilum(sign)));
            for _ in 0..3 {
                let a = add(core, scale(self.rng.in_ball(), 0.4 * r));
                let b = add(a, scale(add(towards, scale(self.direction(), 0.5)), 0.9 * r));
                self.lung(Primitive::capsule(Paint::Lung, AIR, a, b, 2.4, 1.6), sign);
            }
        }
    }

    /// Ring shadows in a cluster.
    fn dilated_bronchi(&mut self) {
        for &sign in self.signs() {
            let core = self.place(sign, 14.0);
            for _ in 0..self.count(18.0, 30.0) {
                let r = self.graded(8.5, 12.5) * self.rng.range(0.85, 1.15);
                let a = add(core, scale(self.rng.in_ball(), 38.0));
                let b = add(a, scale(self.direction(), 10.0));
                self.lung(Primitive::capsule(Paint::Lung, TISSUE, a, b, r, r), sign);
                self.lung(Primitive::capsule(Paint::Lung, AIR, a, b, r - 3.2, r - 3.2), sign);
            }
        }
    }

    /// Short, thin, level plates at the pleura.
    fn septa(&mut self) {
        for &sign in self.signs() {
            let lung = *self.body.lung(sign);
            for _ in 0..self.count(30.0, 70.0) {
                let mut p = self.place(sign, 3.0);
                // Out to the chest wall, where the lines start.
                while lung.depth(p[0] + sign * 3.0, p[1], p[2]) > 8.0 {
                    p[0] += sign * 3.0;
                }
                let radii = [self.graded(9.0, 14.0), self.rng.range(14.0, 24.0), self.graded(1.5, 2.2)];
                let tilt = [1.0, 0.0, self.rng.range(-0.25, 0.25)];
                self.lung(Primitive::ellipsoid(Paint::Lung, TISSUE, p, radii).turned(frame(tilt)), sign);
            }
        }
    }
}
