//! From Hounsfield units to what X-rays and film make of them.

use super::image::{GrayImage, percentiles};
use super::volume::{CtVolume, HuSource, Voxels};
use crate::Result;
use crate::error::Error;
use crate::limits::short;

use rayon::prelude::*;

/// Attenuation of water per millimetre at the mean energy of a chest radiograph, about 70 keV (NIST: 0.193 per cm), rounded.
pub const MU_WATER: f64 = 0.02;

/// Mass attenuation of liquid water: (keV, cm^2/g). J. H. Hubbell and S. M. Seltzer, "Tables of X-Ray Mass Attenuation
/// Coefficients and Mass Energy-Absorption Coefficients", NISTIR 5632, table 4.
const WATER: [(f64, f64); 10] = [
    (15.0, 1.673),
    (20.0, 0.8096),
    (30.0, 0.3756),
    (40.0, 0.2683),
    (50.0, 0.2269),
    (60.0, 0.2059),
    (80.0, 0.1837),
    (100.0, 0.1707),
    (150.0, 0.1505),
    (200.0, 0.1370),
];

/// Photon energies of [`mu_water_at`], keV: one row inside the table at either end.
pub const ENERGIES: (f64, f64) = (20.0, 150.0);

/// Attenuation of water (1 g/cm^3) per millimetre at a photon energy in keV, from NIST's table: the cubic through the four
/// nearest rows, in the logarithms of energy and coefficient (a straight line there would be 4% high at 25 keV, where
/// photoelectric absorption gives way to scattering).
///
/// HU tell how a substance attenuates relative to water at the energy of the CT (about 70 keV for 120 kV), and mu =
/// mu_water(E) (1 + HU / 1000) keeps that ratio at every E. Soft tissue and lung hold to it; bone attenuates more than this
/// at lower energies and less at higher ones.
///
/// # Errors
/// An energy outside [`ENERGIES`].
pub fn mu_water_at(kev: f64) -> Result<f64> {
    let (first, last) = ENERGIES;
    if !(first..=last).contains(&kev) {
        return Err(Error::argument("energy", format!("is {} keV", short(kev)), format!("give {first} to {last}")));
    }
    let above = WATER.iter().position(|&(e, _)| e >= kev).unwrap_or(WATER.len());
    let first = above.clamp(2, WATER.len() - 2) - 2;
    let rows = &WATER[first..first + 4];
    let logarithm: f64 = rows
        .iter()
        .map(|&(e, coefficient)| {
            let others = rows.iter().filter(|&&(other, _)| other != e);
            let weight: f64 = others.map(|&(other, _)| (kev / other).ln() / (e / other).ln()).product();
            weight * coefficient.ln()
        })
        .sum();
    // cm^2/g times 1 g/cm^3 is per cm.
    Ok(0.1 * logarithm.exp())
}

/// How a film renders line integrals: light (0) where it is black, 1 where it stays clear.
///
/// Exposure behind the patient is exp(-p), so log exposure falls linearly with p. The characteristic (Hurter and Driffield)
/// curve of a film is a sigmoid of log exposure between its base density and its maximum; the eye judges density, and what
/// is not blackened is white: grey = 1 / (1 + exp(-4 (p - centre) / width)). That is also DICOM's sigmoid VOI LUT (PS3.3
/// C.11.2.1.3.1) with Window Center and Window Width.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Film {
    /// Line integral shown half-way. `None` exposes by what comes through the patient, as a chest stand's ionisation
    /// chambers do: see [`Film::exposed`].
    pub centre: Option<f64>,
    /// Width of the sigmoid. With a density range of 3, the steepest gradient of the film is 3 ln(10) / width per decade of
    /// exposure: 2.3 at a width of 3. `None` takes as wide a latitude as the patient asks for, about 3.5 from the front and 5
    /// from the side: see [`Film::exposed`].
    pub width: Option<f64>,
}

/// A film with its exposure: the line integral shown half-way and the width of the sigmoid.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Exposure {
    /// Line integral shown half-way.
    pub centre: f64,
    /// Width of the sigmoid.
    pub width: f64,
}

/// Line integrals below this are the open field: less than 5 mm of water.
const OPEN_FIELD: f32 = 0.1;

/// Percentiles of the line integrals behind the patient that an automatic exposure shows as its darkest and its lightest grey,
/// a margin from black and white.
pub const EXPOSED_PERCENTILES: [f32; 2] = [5.0, 98.0];
/// Grey of the thinnest parts that an automatic exposure looks at: dark, not black.
const SHOWN: f64 = 0.09;
/// The exposure where there is no patient.
const UNEXPOSED: Exposure = Exposure { centre: 3.0, width: 3.0 };
/// Least width of an automatic exposure.
const LEAST_WIDTH: f64 = 0.5;

impl Film {
    /// The exposure for an image of line integrals: what is given; else such that the 5th percentile of the pixels behind the
    /// patient has grey 0.09 and the 98th 0.91 (with a centre or a width given, neither is beyond these by more than that
    /// leaves open). `behind` marks those pixels; without it they are the ones above 0.1. Centre and width are 3 where there
    /// are none.
    ///
    /// # Errors
    /// A centre that is not finite, a width that is not positive.
    pub fn exposed(&self, integrals: &GrayImage, behind: Option<&[bool]>) -> Result<Exposure> {
        let pixels = integrals.pixels.iter().enumerate();
        let is_behind = |i: usize, p: f32| behind.map_or(p > OPEN_FIELD, |behind| behind[i]);
        let behind: Vec<f32> = pixels.filter(|&(i, &p)| is_behind(i, p)).map(|(_, &p)| p).collect();
        let (centre, width) = match percentiles(behind, EXPOSED_PERCENTILES) {
            None => (self.centre.unwrap_or(UNEXPOSED.centre), self.width.unwrap_or(UNEXPOSED.width)),
            Some(pair) => {
                let [low, high] = pair.map(f64::from);
                let centre = self.centre.unwrap_or((low + high) / 2.0);
                let half = (high - centre).max(centre - low);
                // grey = SHOWN where 4 (p - centre) / width is the logarithm of SHOWN over 1 - SHOWN.
                let automatic = || (4.0 * half / (1.0 / SHOWN - 1.0).ln()).max(LEAST_WIDTH);
                (centre, self.width.unwrap_or_else(automatic))
            }
        };
        if !(width > 0.0 && width.is_finite() && centre.is_finite()) {
            let problem = format!("centre {centre}, width {width}");
            return Err(Error::argument("film", problem, "give a finite centre and a positive width"));
        }
        Ok(Exposure { centre, width })
    }
}

impl Exposure {
    /// The film of an image of line integrals: values from 0 to 1.
    ///
    /// # Errors
    /// Those of [`GrayImage::new`].
    pub fn develop(&self, integrals: &GrayImage) -> Result<GrayImage> {
        let grey = |p: f32| (1.0 / (1.0 + (-4.0 * (f64::from(p) - self.centre) / self.width).exp())) as f32;
        GrayImage::new(integrals.pixels.iter().map(|&p| grey(p)).collect(), integrals.height, integrals.width)
    }
}

/// HU below which a value is no measurement but padding outside the scanner's field of view (-2048, -3024, ...).
pub const PADDING_BELOW_HU: f32 = -1024.0;

/// How many voxels are padding: below [`PADDING_BELOW_HU`]. They attenuate nothing; in mean HU they count as air, -1000,
/// since the clip comes first. (Padding of exactly -1024 cannot be told from air and is treated alike.)
pub fn padding_voxels(volume: &CtVolume, source: HuSource) -> usize {
    let below = padding_test(volume, source);
    match &volume.voxels {
        Voxels::I16(v) => v.par_iter().filter(|&&v| below(f32::from(v))).count(),
        Voxels::F32(v) => v.par_iter().filter(|&&v| below(v)).count(),
    }
}

/// Which voxels those are, in storage order.
pub(super) fn is_padding(volume: &CtVolume, source: HuSource) -> Vec<bool> {
    let below = padding_test(volume, source);
    match &volume.voxels {
        Voxels::I16(v) => v.par_iter().map(|&v| below(f32::from(v))).collect(),
        Voxels::F32(v) => v.par_iter().map(|&v| below(v)).collect(),
    }
}

fn padding_test(volume: &CtVolume, source: HuSource) -> impl Fn(f32) -> bool + Sync {
    let (slope, intercept) = volume.hu_scale(source);
    move |stored| slope * stored + intercept < PADDING_BELOW_HU
}
