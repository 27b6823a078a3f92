//! Normal anatomy as primitives: heart and great vessels, airways, lung vessels, spine, ribs, shoulder girdle, upper
//! abdomen. Positions and radii are round figures for an adult, in reference millimetres; HU are textbook values.

use super::anatomy::Anatomy;
use super::shapes::{Paint, Primitive, Vec3, add, cross, frame, scale, sub, unit};
use crate::philox::Rng;

const VESSELS: u32 = 3;
const SKELETON: u32 = 4;

const BLOOD: f32 = 42.0;
pub(super) const AIR: f32 = -990.0;

/// Where the main bronchus and artery enter a lung.
pub(super) fn hilum(sign: f32) -> Vec3 {
    [sign * 40.0, 12.0, if sign > 0.0 { 8.0 } else { 2.0 }]
}

/// Heart: main mass (ventricles) and right atrium, as (centre, radii).
pub(super) fn heart_chambers(body: &Anatomy) -> [(Vec3, Vec3); 3] {
    let h = body.heart;
    let x = body.heart_shift;
    // Growth is towards the left, down and forward: the base stays at the great vessels.
    let grow = h - 1.0;
    [
        ([22.0 + x + 22.0 * grow, -28.0 - 10.0 * grow, -44.0 - 14.0 * grow], [47.0 * h, 38.0 * h, 40.0 * h]),
        ([-14.0 + x - 8.0 * grow, -20.0, -34.0 - 8.0 * grow], [28.0 * h, 32.0 * h, 36.0 * h]),
        ([6.0 + x, -6.0, -14.0], [30.0 * h, 28.0 * h, 26.0 * h]),
    ]
}

/// Direction of the heart's long axis: left, forward and down.
pub(super) const HEART_AXIS: Vec3 = [0.80, -0.35, -0.50];

/// Centre line and radii of the thoracic aorta, from the valve to the diaphragm.
pub(super) fn aorta(body: &Anatomy) -> Vec<(Vec3, f32)> {
    let u = body.unfolding;
    vec![
        ([0.0, -18.0, -14.0], 14.0 + 2.0 * u),
        ([-12.0 - 8.0 * u, -20.0, 16.0], 14.0 + 3.0 * u),
        ([-6.0 - 6.0 * u, -14.0, 42.0 + 4.0 * u], 14.0 + 2.0 * u),
        ([12.0 + 4.0 * u, 8.0, 52.0 + 8.0 * u], 13.0 + 2.0 * u),
        ([24.0 + 8.0 * u, 36.0, 40.0 + 6.0 * u], 12.0 + 2.0 * u),
        ([22.0 + 10.0 * u, 50.0, 0.0], 11.0 + 2.0 * u),
        ([16.0 + 8.0 * u, 50.0, -70.0], 11.0 + 1.5 * u),
        ([4.0, 46.0, -140.0], 10.0 + 1.5 * u),
        ([2.0, 44.0, -190.0], 9.0),
    ]
}

/// Lung vessels: three generations of branches from each hilum. Drawn into aerated lung before anything else.
pub(super) fn lung_vessels(seed: u64, index: u64, out: &mut Vec<Primitive>) {
    let mut rng = Rng::new(seed, index, VESSELS);
    for sign in [-1.0, 1.0] {
        let root = hilum(sign);
        for trunk in 0..9 {
            let turn = (trunk as f32 + rng.range(-0.3, 0.3)) / 9.0 * std::f32::consts::TAU;
            let outward = [sign * rng.range(0.35, 0.9), 0.9 * turn.cos(), 1.1 * turn.sin() - 0.15];
            grow_vessel(root, unit(outward), rng.range(30.0, 44.0), rng.range(2.6, 3.6), 3, sign, &mut rng, out);
        }
        // The interlobar artery, the widest shadow below each hilum.
        let end = add(root, [sign * 14.0, 14.0, -46.0]);
        out.push(Primitive::capsule(Paint::Lung, BLOOD, root, end, 8.0, 5.0).side(sign));
    }
}

#[expect(clippy::too_many_arguments)]
fn grow_vessel(
    from: Vec3,
    direction: Vec3,
    length: f32,
    radius: f32,
    generations: u32,
    sign: f32,
    rng: &mut Rng,
    out: &mut Vec<Primitive>,
) {
    let to = add(from, scale(direction, length));
    out.push(Primitive::capsule(Paint::Lung, BLOOD, from, to, radius, radius * 0.75).side(sign));
    if generations == 1 {
        return;
    }
    let side = unit(cross(direction, rng.in_ball()));
    let spread = rng.range(0.35, 0.6);
    for bend in [spread, -spread] {
        let child = unit(add(direction, scale(side, bend)));
        let shorter = length * rng.range(0.65, 0.9);
        grow_vessel(to, child, shorter, radius * 0.68, generations - 1, sign, rng, out);
    }
}

/// Soft tissue of the mediastinum, heart and great vessels.
pub(super) fn mediastinum(body: &Anatomy, out: &mut Vec<Primitive>) {
    let soft = |hu, centre, radii| Primitive::ellipsoid(Paint::Organ, hu, centre, radii);
    // Connective tissue from neck to diaphragm, in front of the spine.
    out.push(soft(10.0, [0.0, 18.0, 70.0], [24.0, 44.0, 70.0]));
    out.push(soft(15.0, [2.0, 26.0, -40.0], [24.0, 40.0, 110.0]));
    out.push(soft(-60.0, [4.0, -58.0, 20.0], [14.0, 26.0, 70.0]));
    let axes = frame(HEART_AXIS);
    for (i, (centre, radii)) in heart_chambers(body).into_iter().enumerate() {
        let chamber = soft(BLOOD, centre, radii);
        out.push(if i == 0 { chamber.turned(axes) } else { chamber });
    }
    let tube = |a, b, ra, rb| Primitive::capsule(Paint::Organ, BLOOD, a, b, ra, rb);
    for pair in aorta(body).windows(2) {
        out.push(tube(pair[0].0, pair[1].0, pair[0].1, pair[1].1));
    }
    out.push(tube([-22.0, -10.0, 84.0], [-20.0, -10.0, -8.0], 8.5, 9.5)); // superior vena cava
    out.push(tube([-16.0, 2.0, 84.0], [-30.0, 8.0, 112.0], 7.0, 6.0)); // brachiocephalic vessels
    out.push(tube([16.0, 4.0, 72.0], [26.0, 10.0, 112.0], 7.0, 6.0));
    out.push(tube([14.0, -34.0, -12.0], [16.0, -6.0, 20.0], 13.0, 12.0)); // pulmonary trunk
    out.push(tube([16.0, -6.0, 20.0], hilum(1.0), 11.0, 9.0));
    out.push(tube([10.0, -4.0, 16.0], hilum(-1.0), 10.0, 9.0));
    out.push(tube([-18.0, 10.0, -60.0], [-20.0, 6.0, -110.0], 11.0, 11.0)); // inferior vena cava
}

/// Trachea and main bronchi.
pub(super) fn airways(out: &mut Vec<Primitive>) {
    let carina = [2.0, 22.0, 34.0];
    let tube = |a: Vec3, b: Vec3, ra, rb| Primitive::capsule(Paint::Organ, AIR, a, b, ra, rb);
    out.push(tube([0.0, 12.0, 150.0], carina, 8.5, 8.5));
    out.push(tube(carina, add(hilum(-1.0), [-4.0, 4.0, 4.0]), 7.0, 6.0));
    out.push(tube(carina, add(hilum(1.0), [4.0, 4.0, 0.0]), 6.5, 5.5));
}

/// Spine, ribs, sternum, clavicles and shoulder blades.
pub(super) fn skeleton(body: &Anatomy, seed: u64, index: u64, out: &mut Vec<Primitive>) {
    let mut rng = Rng::new(seed, index, SKELETON);
    let cortex = body.bone_hu + 120.0;
    let bone = |hu, a, b, ra, rb| Primitive::capsule(Paint::Organ, hu, a, b, ra, rb);
    let (curve, phase) = (rng.range(-4.0, 4.0), rng.range(0.0, 6.0));
    let spine_x = |z: f32| curve * (z / 90.0 + phase).sin();
    for level in 0..16 {
        let z = -190.0 + 24.0 * level as f32;
        let x = spine_x(z);
        let body_centre = [x, 66.0, z];
        out.push(Primitive::ellipsoid(Paint::Organ, body.bone_hu, body_centre, [18.0, 15.5, 12.5]));
        // Arch, transverse and spinous processes around the canal.
        for sign in [-1.0, 1.0] {
            out.push(bone(cortex, [x + sign * 13.0, 76.0, z], [x + sign * 30.0, 92.0, z + 2.0], 5.0, 4.0));
        }
        out.push(bone(cortex, [x, 98.0, z], [x, 116.0, z - 12.0], 5.0, 4.0));
    }
    let slope = rng.range(40.0, 54.0);
    for rib in 0..11 {
        let z = 112.0 - 22.0 * rib as f32;
        // The cage narrows upwards with the lungs.
        let taper = ((z - 5.0) / 140.0).max(0.0);
        let (wide, deep) = (128.0 * (1.0 - 0.55 * taper * taper), 92.0 * (1.0 - 0.35 * taper * taper));
        // Lower ribs float: their arc ends at the flank.
        let end = if rib < 8 { 0.84 } else { 0.84 - 0.14 * (rib - 7) as f32 };
        for sign in [-1.0, 1.0] {
            let point = |t: f32| {
                let angle = 0.22 + t * (std::f32::consts::PI - 0.22);
                [
                    spine_x(z) + sign * wide * angle.sin(),
                    LUNG_MID + deep * angle.cos(),
                    z + 4.0 - slope * (1.0 - angle.cos()) * 0.5 - 12.0 * taper,
                ]
            };
            let steps = 9;
            for s in 0..steps {
                let (t0, t1) = (end * s as f32 / steps as f32, end * (s + 1) as f32 / steps as f32);
                out.push(bone(cortex, point(t0), point(t1), 3.8, 3.8));
            }
        }
    }
    out.push(Primitive::ellipsoid(Paint::Organ, body.bone_hu - 40.0, [0.0, -84.0, 14.0], [15.0, 6.0, 66.0]));
    let lift = rng.range(-8.0, 10.0);
    for sign in [-1.0, 1.0] {
        out.push(bone(cortex, [sign * 14.0, -72.0, 88.0], [sign * 70.0, -46.0, 108.0 + lift], 5.5, 5.0));
        out.push(bone(cortex, [sign * 70.0, -46.0, 108.0 + lift], [sign * 128.0, 4.0, 122.0 + lift], 5.0, 6.0));
        // Arms are raised: the blades turn outwards, mostly clear of the lungs.
        let blade = Primitive::ellipsoid(Paint::Organ, cortex, [sign * 112.0, 66.0, 56.0 + lift], [4.0, 22.0, 54.0]);
        out.push(blade.turned(frame([sign * 0.75, 0.60, 0.12])));
    }
}

const LUNG_MID: f32 = super::anatomy::LUNG_CENTRE_Y;

/// Liver, spleen and stomach beneath the diaphragm.
pub(super) fn abdomen(body: &Anatomy, out: &mut Vec<Primitive>) {
    let [right, left] = &body.lungs;
    let organ = |hu, centre: Vec3, radii| Primitive::ellipsoid(Paint::Organ, hu, centre, radii);
    let top = |lung: &super::anatomy::Lung| lung.base + lung.dome;
    out.push(organ(58.0, [-52.0, 2.0, top(right) - 62.0], [66.0, 74.0, 56.0]));
    out.push(organ(48.0, [76.0, 44.0, top(left) - 46.0], [30.0, 34.0, 40.0]));
    if body.gastric_air > 0.0 {
        let centre = [46.0, -12.0, top(left) - 14.0 - body.gastric_air];
        out.push(organ(30.0, sub(centre, [0.0, 0.0, 10.0]), scale([1.4, 1.3, 1.5], body.gastric_air)));
        out.push(organ(
            -950.0,
            sub(centre, [0.0, 0.25 * body.gastric_air, 0.0]),
            scale([1.1, 0.8, 0.9], body.gastric_air),
        ));
    }
}
