//! Affines, axis codes and reorientation.

use x2ct::ct::{Affine, AxisCodes, CtVolume, Voxels};

/// Rotation about z by `c`, then y by `b`, then x by `a` degrees applied first: Rz Ry Rx.
fn rotation([a, b, c]: [f64; 3]) -> [[f64; 3]; 3] {
    let ((sa, ca), (sb, cb), (sc, cc)) = (a.to_radians().sin_cos(), b.to_radians().sin_cos(), c.to_radians().sin_cos());
    [
        [cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa],
        [sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa],
        [-sb, cb * sa, cb * ca],
    ]
}

fn oblique(angles: [f64; 3], spacing: [f64; 3]) -> Affine {
    Affine::from_parts(rotation(angles), spacing, [5.0, -6.0, 7.0]).unwrap()
}

/// Multiplies the linear part of `affine` by `turn` from the left.
fn turned(affine: Affine, turn: [[f64; 3]; 3]) -> Affine {
    let old = affine.rows();
    let rows = std::array::from_fn(|r| {
        let mut row = [0.0; 4];
        for (c, value) in row.iter_mut().enumerate() {
            *value = (0..3).map(|k| turn[r][k] * old[k][c]).sum();
        }
        row
    });
    Affine::new(rows).unwrap()
}

#[test]
fn all_48_axis_codes() {
    let mut seen = std::collections::HashSet::new();
    for codes in AxisCodes::all() {
        let text = codes.to_string();
        assert_eq!(text.parse::<AxisCodes>().unwrap(), codes);
        // Column v of the matrix is the unit vector that letter v names.
        let rows: [[f64; 4]; 3] = std::array::from_fn(|world| {
            let mut row = [0.0, 0.0, 0.0, 1.0];
            for (voxel, letter) in text.chars().enumerate() {
                row[voxel] = match (world, letter) {
                    (0, 'R') | (1, 'A') | (2, 'S') => 1.5,
                    (0, 'L') | (1, 'P') | (2, 'I') => -1.5,
                    _ => 0.0,
                };
            }
            row
        });
        let affine = Affine::new(rows).unwrap();
        assert_eq!(affine.axis_codes(), codes, "{text}");
        // Any tilt of up to 25 degrees about a single axis leaves the nearest directions as they are.
        for angles in [[25.0, 0.0, 0.0], [0.0, -25.0, 0.0], [0.0, 0.0, 25.0], [12.0, -9.0, 15.0]] {
            assert_eq!(turned(affine, rotation(angles)).axis_codes(), codes, "{text} turned by {angles:?}");
        }
        seen.insert(text);
    }
    assert_eq!(seen.len(), 48);
    for bad in ["", "RA", "RAX", "RRS", "RLS", "RASS", "ras"] {
        assert!(bad.parse::<AxisCodes>().unwrap_err().to_string().contains("names no orientation"));
    }
}

/// Expected letters are nibabel 5's `aff2axcodes` for the same matrices.
#[test]
fn oblique_and_sheared_axis_codes_are_nibabels() {
    let rotated: [([f64; 3], &str); 8] = [
        ([10.0, 0.0, 0.0], "RAS"),
        ([0.0, 25.0, 0.0], "RAS"),
        ([20.0, -30.0, 40.0], "ALS"),
        ([50.0, 10.0, 5.0], "RSP"),
        ([100.0, 20.0, -70.0], "PSL"),
        ([44.0, 44.0, 44.0], "IAR"),
        ([60.0, 60.0, 60.0], "IAR"),
        ([170.0, -80.0, 35.0], "SPR"),
    ];
    for (angles, codes) in rotated {
        assert_eq!(oblique(angles, [0.7, 0.7, 2.5]).axis_codes().to_string(), codes, "{angles:?}");
    }
    let sheared = [
        ([[1.0, 0.3, 0.0], [0.0, 1.0, 0.2], [0.1, 0.0, 1.0]], "RAS"),
        ([[1.0, 0.9, 0.8], [0.2, 1.0, 0.9], [0.0, 0.3, 1.0]], "RAS"),
        ([[1.0, -0.8, 0.8], [0.7, 0.1, 0.9], [0.9, 0.8, 1.0]], "RSA"),
        ([[0.6, 0.9, 0.1], [0.5, 0.8, -0.9], [0.9, -0.3, 0.4]], "SRP"),
    ];
    for (matrix, codes) in sheared {
        let affine = Affine::new(matrix.map(|m| [m[0], m[1], m[2], 0.0])).unwrap();
        assert_eq!(affine.axis_codes().to_string(), codes, "{matrix:?}");
    }
}

#[test]
fn world_and_voxel_are_inverse() {
    let affine = oblique([100.0, 20.0, -70.0], [0.7, 0.8, 2.5]);
    assert_eq!(affine.voxel_to_world([0.0; 3]), [5.0, -6.0, 7.0]);
    for voxel in [[0.0, 0.0, 0.0], [511.0, 3.5, 132.0], [-7.0, 200.25, 1e4]] {
        let back = affine.world_to_voxel(affine.voxel_to_world(voxel));
        for axis in 0..3 {
            assert!((back[axis] - voxel[axis]).abs() < 1e-9, "{voxel:?} came back as {back:?}");
        }
    }
    for (got, expected) in affine.spacing().into_iter().zip([0.7, 0.8, 2.5]) {
        assert!((got - expected).abs() < 1e-12);
    }
    for (row, expected) in affine.direction().into_iter().zip(rotation([100.0, 20.0, -70.0])) {
        for (got, expected) in row.into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12);
        }
    }
    assert!((affine.determinant() - 0.7 * 0.8 * 2.5).abs() < 1e-12);
    let flipped = Affine::centred(AxisCodes::RAS, [1.0; 3], [4, 5, 6]).unwrap();
    assert_eq!(flipped.centre([4, 5, 6]), [0.0; 3]);
    assert_eq!(Affine::centred("LAS".parse().unwrap(), [1.0; 3], [4, 5, 6]).unwrap().determinant(), -1.0);
}

#[test]
fn reorientation_moves_no_voxel_in_the_world() {
    let shape = [2, 3, 4];
    let values: Vec<i16> = (0..24).collect();
    for from in AxisCodes::all() {
        let straight = Affine::centred(from, [0.5, 0.75, 2.0], shape).unwrap();
        let affine = turned(straight, rotation([12.0, -9.0, 15.0]));
        for target in AxisCodes::all() {
            let before = CtVolume::new(Voxels::I16(values.clone().into()), shape, affine).unwrap();
            let after = before.clone().reorient(target);
            assert_eq!(after.axis_codes(), target);
            let [nx, ny, nz] = after.shape;
            for index in 0..nx * ny * nz {
                let voxel = [index % nx, index / nx % ny, index / nx / ny].map(|v| v as f64);
                let source = after.voxels.get(index) as usize;
                let origin = [source % 2, source / 2 % 3, source / 6].map(|v| v as f64);
                let (now, then) = (after.affine.voxel_to_world(voxel), affine.voxel_to_world(origin));
                for axis in 0..3 {
                    assert!((now[axis] - then[axis]).abs() < 1e-12, "{from} to {target}");
                }
            }
            if from == target {
                assert_eq!(after, before);
            }
        }
    }
}

#[test]
fn float_volumes_reorient_too() {
    let affine = Affine::centred(AxisCodes::RAS, [1.0; 3], [3, 1, 1]).unwrap();
    let volume = CtVolume::new(Voxels::F32(vec![1.5, 2.5, 3.5].into()), [3, 1, 1], affine).unwrap();
    let turned = volume.reorient("SAL".parse().unwrap());
    assert_eq!((turned.voxels, turned.shape), (Voxels::F32(vec![3.5, 2.5, 1.5].into()), [1, 1, 3]));
}

#[test]
fn unusable_affines_are_refused() {
    let message = |rows| Affine::new(rows).unwrap_err().to_string();
    let unit = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let with = |r: usize, c: usize, v: f64| {
        let mut rows = unit;
        rows[r][c] = v;
        rows
    };
    assert!(message(with(1, 3, f64::NAN)).contains("entry [1][3] is NaN"));
    assert!(message(with(0, 0, f64::INFINITY)).contains("entry [0][0] is inf"));
    assert!(message(with(2, 2, 0.0)).contains("0 mm long on axis 2"));
    assert!(message(with(2, 2, 1e9)).contains("mm long on axis 2"));
    assert!(message([unit[0], unit[0], unit[2]]).contains("mm long on axis 1"));
    assert!(message([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], unit[2]]).contains("singular"));
}
