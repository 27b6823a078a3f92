//! Rigid poses of the imaging system, and radiographs that are differentiable in them: what 2-D/3-D registration descends.

use crate::autograd::{Gradients, Op};
use crate::device::Device;
use crate::kernels::Write;
use crate::ops::drr::{LineIntegral, ViewGradient, Views};
use crate::ops::volume::DeviceVolume;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

use super::geometry::Affine;
use super::view::{Beam, View};

/// A rotation about a point, then a translation, of source and detector together; the patient stays. World coordinates, RAS+.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pose {
    /// Rotation vector: its direction is the axis, its length the angle in radians.
    pub rotation: [f64; 3],
    /// Millimetres.
    pub translation: [f64; 3],
}

impl Pose {
    /// The view of an imaging system moved by this pose, rotated about `about`.
    pub fn moves(&self, view: &View, about: [f64; 3]) -> View {
        let turn = rotation_matrix(self.rotation);
        let vector = |v: [f64; 3]| multiply(&turn, v);
        let point = |p: [f64; 3]| add(vector(subtract(p, about)), add(about, self.translation));
        let beam = match view.beam {
            Beam::Parallel { direction } => Beam::Parallel { direction: vector(direction) },
            Beam::Cone { source } => Beam::Cone { source: point(source) },
        };
        let (row, column) = (vector(view.row), vector(view.column));
        View { beam, origin: point(view.origin), row, column, size: view.size }
    }

    /// The six numbers, rotation first.
    pub fn to_array(&self) -> [f64; 6] {
        let ([a, b, c], [x, y, z]) = (self.rotation, self.translation);
        [a, b, c, x, y, z]
    }

    /// From six numbers, rotation first.
    pub fn from_array([a, b, c, x, y, z]: [f64; 6]) -> Self {
        Pose { rotation: [a, b, c], translation: [x, y, z] }
    }

    /// The gradient of the six numbers, given that of the moved view in voxel coordinates.
    pub fn gradient(&self, view: &View, about: [f64; 3], affine: &Affine, moved: &ViewGradient) -> [f64; 6] {
        // World w enters a kernel as inverse * w: gradients pass through its transpose.
        let inverse = affine.inverse().rows();
        let world = |g: [f64; 3]| -> [f64; 3] { std::array::from_fn(|b| (0..3).map(|a| inverse[a][b] * g[a]).sum()) };
        let turn = rotation_matrix(self.rotation);
        let (beam, beam_moves) = match view.beam {
            Beam::Parallel { direction } => (direction, false),
            Beam::Cone { source } => (subtract(source, about), true),
        };
        let parts = [
            (subtract(view.origin, about), world(moved.origin), true),
            (view.row, world(moved.row), false),
            (view.column, world(moved.column), false),
            (beam, world(moved.source), beam_moves),
        ];
        let (mut torque, mut force) = ([0.0; 3], [0.0; 3]);
        for (arm, gradient, moves) in parts {
            torque = add(torque, cross(multiply(&turn, arm), gradient));
            if moves {
                force = add(force, gradient);
            }
        }
        // A small change w of the rotation vector turns by jacobian * w on top of the rotation.
        let jacobian = left_jacobian(self.rotation);
        let rotation: [f64; 3] = std::array::from_fn(|b| (0..3).map(|a| jacobian[a][b] * torque[a]).sum());
        Pose { rotation, translation: force }.to_array()
    }
}

/// Radiographs of moved views: [`LineIntegral`] with the pose of each view as an input beside the volume.
///
/// As an [`Op`] its inputs are the volume, f32 or bf16 `[Z, Y, X]` or `[B, Z, Y, X]`, and the poses, f32 `[V, 6]`, rotation
/// vector in radians and translation in millimetres ([`Pose`]); its output is f32 `[B, V, rows, columns]`. Gradients of both
/// are exact ([`LineIntegral::view_gradients`] says where the geometry's has kinks) and deterministic.
#[derive(Clone)]
pub struct PosedProjection {
    views: Vec<View>,
    affine: Affine,
    about: [f64; 3],
    /// How; its views are those before any motion.
    pub integral: LineIntegral,
}

impl PosedProjection {
    /// `views` of volumes with this affine, moved about the world point `about`; `integral` says the rest from its views.
    pub fn new(
        device: &Device,
        views: &[View],
        affine: Affine,
        about: [f64; 3],
        integral: impl FnOnce(Views) -> LineIntegral,
    ) -> Result<Self> {
        let integral = integral(View::upload(device, views, &affine)?);
        Ok(PosedProjection { views: views.to_vec(), affine, about, integral })
    }

    /// The images of a volume of any storage type, and the integral operator of the moved views that made them.
    pub fn project(&self, volume: &DeviceVolume, poses: &[Pose]) -> Result<(Tensor, PosedContext)> {
        if poses.len() != self.views.len() {
            let problem = format!("{} for {} views", poses.len(), self.views.len());
            return Err(Error::argument("poses", problem, "give one a view"));
        }
        let moved: Vec<View> = self.views.iter().zip(poses).map(|(v, pose)| pose.moves(v, self.about)).collect();
        let views = View::upload(volume.device(), &moved, &self.affine)?;
        let integral = LineIntegral { views, ..self.integral.clone() };
        let (image, integrals) = integral.project_saving(volume)?;
        Ok((image, PosedContext { integral, integrals, poses: poses.to_vec() }))
    }

    /// The gradient of each pose's six numbers, rotation first. Waits for the device.
    pub fn pose_gradients(
        &self,
        volume: &DeviceVolume,
        context: &PosedContext,
        upstream: &Tensor,
    ) -> Result<Vec<[f64; 6]>> {
        let views = context.integral.view_gradients(volume, context.integrals.as_ref(), upstream)?;
        let each = self.views.iter().zip(&context.poses).zip(&views);
        Ok(each.map(|((view, pose), g)| pose.gradient(view, self.about, &self.affine, g)).collect())
    }
}

/// What gradients need of a projection.
pub struct PosedContext {
    integral: LineIntegral,
    integrals: Option<Tensor>,
    poses: Vec<Pose>,
}

impl Op for PosedProjection {
    type Context = (Tensor, PosedContext);

    fn name(&self) -> &'static str {
        "posed_projection"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let [volume, poses] = inputs[..] else {
            let problem = format!("{} given", inputs.len());
            return Err(Error::argument("inputs of a posed projection", problem, "pass the volume and the poses"));
        };
        poses.expect("poses", volume.device(), [self.views.len(), 6], DType::F32)?;
        let numbers = poses.to_vec()?;
        if let Some(i) = numbers.iter().position(|v| !v.is_finite()) {
            let problem = format!("number {} of pose {} is {}", i % 6, i / 6, numbers[i]);
            return Err(Error::argument("poses", problem, "a smaller step of the optimiser may keep them finite"));
        }
        let poses = numbers.as_chunks::<6>().0.iter().map(|p| Pose::from_array(p.map(f64::from)));
        let source = DeviceVolume::from_tensor(volume, self.integral.scale)?;
        let (image, context) = self.project(&source, &poses.collect::<Vec<_>>())?;
        Ok((image, (volume.clone(), context)))
    }

    fn backward(&self, (volume, context): &Self::Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        if let Some((gradient, write)) = gradients.wanted(0)? {
            context.integral.adjoint(volume, context.integrals.as_ref(), upstream, &gradient, write)?;
        }
        if let Some((gradient, write)) = gradients.wanted(1)? {
            let source = DeviceVolume::from_tensor(volume, self.integral.scale)?;
            let found = self.pose_gradients(&source, context, upstream)?;
            let before = match write {
                Write::Overwrite => vec![0.0; gradient.numel()],
                Write::Accumulate => gradient.to_vec()?,
            };
            let sum: Vec<f32> = before.iter().zip(found.as_flattened()).map(|(b, g)| b + *g as f32).collect();
            gradient.copy_from_slice(&sum)?;
        }
        Ok(())
    }
}

fn add(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|i| a[i] + b[i])
}

fn subtract(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|i| a[i] - b[i])
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|i| a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3])
}

fn multiply(m: &[[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
    m.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
}

/// a I + b \[w\]x + c w w' with a, b, c functions of the angle.
fn about_axis(w: [f64; 3], [a, b, c]: [f64; 3]) -> [[f64; 3]; 3] {
    let [x, y, z] = w;
    let skew = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]];
    std::array::from_fn(|i| std::array::from_fn(|j| if i == j { a } else { 0.0 } + b * skew[i][j] + c * w[i] * w[j]))
}

/// sin(t) / t, (1 - cos t) / t² and (t - sin t) / t³ of the length t of `w`, by their series where t is small.
fn angle_terms(w: [f64; 3]) -> [f64; 3] {
    let square: f64 = w.iter().map(|v| v * v).sum();
    if square < 1e-4 {
        let series = |c: [f64; 4]| c[0] - square * (c[1] - square * (c[2] - square * c[3]));
        return [
            series([1.0, 1.0 / 6.0, 1.0 / 120.0, 1.0 / 5040.0]),
            series([0.5, 1.0 / 24.0, 1.0 / 720.0, 1.0 / 40320.0]),
            series([1.0 / 6.0, 1.0 / 120.0, 1.0 / 5040.0, 1.0 / 362_880.0]),
        ];
    }
    let t = square.sqrt();
    [t.sin() / t, (1.0 - t.cos()) / square, (t - t.sin()) / (square * t)]
}

/// Rodrigues' formula.
pub(crate) fn rotation_matrix(w: [f64; 3]) -> [[f64; 3]; 3] {
    let [sin, cos, _] = angle_terms(w);
    let square: f64 = w.iter().map(|v| v * v).sum();
    about_axis(w, [1.0 - cos * square, sin, cos])
}

fn left_jacobian(w: [f64; 3]) -> [[f64; 3]; 3] {
    let [sin, cos, rest] = angle_terms(w);
    about_axis(w, [sin, cos, rest])
}
