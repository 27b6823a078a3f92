//! A patient's body: build, posture and the outlines of torso, lungs and diaphragm.
//!
//! Reference space is in millimetres, x towards the patient's left, y posterior, z superior, with the origin at the
//! level of the hila. `to_world` carries it into the scanner: build (per-axis stretch), scale, rotation and position.

use super::PhantomConfig;
use super::findings::{Abnormality, Finding, normal_cdf};
use super::shapes::{Mat3, Vec3, multiply};
use crate::philox::Rng;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sex {
    Female,
    Male,
}

/// One lung: a tapered super-ellipse column above a dome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lung {
    /// +1 left, -1 right.
    pub sign: f32,
    pub centre_x: f32,
    pub half_width: f32,
    pub half_depth: f32,
    /// Height of the costophrenic recess and of the dome above it.
    pub base: f32,
    pub dome: f32,
    /// HU of aerated lung at the hilum's level.
    pub hu: f32,
}

pub(super) const LUNG_CENTRE_Y: f32 = 6.0;
const TAPER_FROM: f32 = 5.0;
const APEX: f32 = 126.0;

impl Lung {
    /// Signed depth below the pleura in millimetres, positive inside (exact in sign, approximate in distance).
    #[inline(always)]
    pub fn depth(&self, x: f32, y: f32, z: f32) -> f32 {
        let u = ((z - TAPER_FROM) * (1.0 / (APEX - TAPER_FROM))).max(0.0);
        let u2 = u * u;
        let ex = (x - self.centre_x + self.sign * 20.0 * u2) / self.half_width;
        let ey = (y - LUNG_CENTRE_Y) / self.half_depth;
        let (ex2, ey2) = (ex * ex, ey * ey);
        // Between an ellipse and a rounded rectangle.
        let ring = 0.4 * (ex2 + ey2) + 0.6 * (ex2 * ex2 + ey2 * ey2).sqrt();
        let wall = (1.0 - ring - u2 * u) * 0.5 * self.half_width;
        let floor = self.base + self.dome * (1.0 - 0.9 * ex2 - 0.9 * ey2);
        wall.min((z - floor) * 0.8)
    }
}

/// The body of one patient.
#[derive(Clone, Debug)]
pub struct Anatomy {
    pub sex: Sex,
    /// Years.
    pub age: u32,
    /// Standardised build: 0 is average, +-2 the extremes.
    pub stature: f32,
    pub habitus: f32,
    pub inspiration: f32,
    /// Linear size of the heart against the average for the body, cardiomegaly included.
    pub heart: f32,
    /// Thickness of the subcutaneous fat, millimetres.
    pub fat: f32,
    pub(super) breast: f32,
    pub(super) bone_hu: f32,
    /// 0 (young) to 1: how far the aorta winds.
    pub(super) unfolding: f32,
    pub(super) heart_shift: f32,
    pub(super) gastric_air: f32,
    /// Right, left.
    pub(super) lungs: [Lung; 2],
    /// Columns carry reference axes into world millimetres.
    pub(super) to_world: Mat3,
    pub(super) position: Vec3,
    /// World millimetres per reference millimetre (geometric mean).
    pub(super) size: f32,
}

const BODY: u32 = 1;
const POSTURE: u32 = 2;

impl Anatomy {
    /// Draws the body of one patient; some findings shape it (heart size, hyperinflation, volume loss).
    pub(super) fn draw(seed: u64, index: u64, config: &PhantomConfig, findings: &[Finding], ageing: f32) -> Self {
        let mut rng = Rng::new(seed, index, BODY);
        let severity = |kind: Abnormality| findings.iter().find(|f| f.kind == kind).map(|f| f.severity);
        let sex = if rng.chance(0.5) { Sex::Female } else { Sex::Male };
        let age = (20.0 + 70.0 * normal_cdf(ageing)).round() as u32;
        let stature = 0.7 * rng.normal_within(2.0) + if sex == Sex::Male { 0.6 } else { -0.6 };
        let habitus = rng.normal_within(2.0);
        let inspiration = rng.normal_within(2.0);
        let fat = 14.0 + 6.0 * habitus + rng.range(0.0, 4.0);
        let breast = if sex == Sex::Female { 36.0 + 7.0 * habitus + rng.range(-6.0, 6.0) } else { 0.0 };
        let heart_natural = 1.0 + 0.08 * rng.normal_within(2.0);
        let enlargement = severity(Abnormality::Cardiomegaly).map_or(0.0, |s| 0.18 + 0.30 * s);
        let heart_shift = rng.range(-5.0, 5.0);
        let ageing_unit = normal_cdf(ageing);
        let unfolding = (ageing_unit + rng.range(-0.2, 0.2)).clamp(0.0, 1.0);
        let bone_hu = 260.0 - 90.0 * ageing_unit + rng.range(-20.0, 20.0);
        let gastric_air = if rng.chance(0.7) { rng.range(12.0, 30.0) } else { 0.0 };

        let emphysema = severity(Abnormality::Emphysema);
        let trapped = emphysema.map_or(0.0, |s| 0.4 + 0.6 * s);
        let lungs = [-1.0_f32, 1.0].map(|sign| {
            let collapse = findings
                .iter()
                .find(|f| f.kind == Abnormality::Atelectasis && f.side.signs().contains(&sign))
                .map_or(0.0, |f| 6.0 + 20.0 * f.severity);
            Lung {
                sign,
                centre_x: sign * 64.0,
                half_width: if sign < 0.0 { 60.0 } else { 58.0 },
                half_depth: 84.0,
                base: -116.0 - 7.0 * inspiration - 8.0 * trapped + collapse,
                dome: (if sign < 0.0 { 58.0 } else { 48.0 } + rng.range(-6.0, 6.0)) * (1.0 - 0.4 * trapped),
                hu: -842.0 - 22.0 * inspiration - emphysema.map_or(0.0, |s| 20.0 + 55.0 * s) + rng.range(-12.0, 12.0),
            }
        });

        let width = 1.0 + 0.05 * rng.normal_within(2.0) + 0.02 * habitus;
        let depth = 1.0 + 0.06 * rng.normal_within(2.0) + 0.03 * habitus + 0.08 * trapped;
        let height = 1.0 + 0.04 * rng.normal_within(2.0);

        let mut rng = Rng::new(seed, index, POSTURE);
        let scale = rng.range(config.scale.0, config.scale.1) * (1.0 + 0.025 * stature);
        let [tilt, turn, roll] = config.rotation_deg.map(|r| rng.range(-r, r).to_radians());
        let position = config.translation_mm.map(|t| rng.range(-t, t));
        let (sx, cx) = tilt.sin_cos();
        let (sy, cy) = turn.sin_cos();
        let (sz, cz) = roll.sin_cos();
        let rotation = multiply(
            &[[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]],
            &multiply(
                &[[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]],
                &[[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]],
            ),
        );
        let stretch = [scale * width, scale * depth, scale * height];
        let to_world = std::array::from_fn(|i| std::array::from_fn(|j| rotation[i][j] * stretch[j]));
        Anatomy {
            sex,
            age,
            stature,
            habitus,
            inspiration,
            heart: heart_natural * (1.0 + enlargement),
            fat,
            breast,
            bone_hu,
            unfolding,
            heart_shift,
            gastric_air,
            lungs,
            to_world,
            position,
            size: scale * (width * depth * height).cbrt(),
        }
    }

    /// The lung on a side: +1 left, -1 right.
    pub(super) fn lung(&self, sign: f32) -> &Lung {
        &self.lungs[usize::from(sign > 0.0)]
    }

    /// World millimetres to reference millimetres.
    pub(super) fn world_to_reference(&self) -> Mat3 {
        // Columns of `to_world` are orthogonal: the inverse is the transpose with rows divided by their squared length.
        let m = &self.to_world;
        std::array::from_fn(|j| {
            let length: f32 = (0..3).map(|i| m[i][j] * m[i][j]).sum();
            std::array::from_fn(|i| m[i][j] / length)
        })
    }

    /// A reference position in world millimetres (x left, y posterior, z superior, origin at the volume's centre).
    pub fn place(&self, reference: [f32; 3]) -> [f32; 3] {
        let p = super::shapes::apply(&self.to_world, reference);
        [p[0] + self.position[0], p[1] + self.position[1], p[2] + self.position[2]]
    }
}
