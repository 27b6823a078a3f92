use x2ct::ops::gather::{Places, gather_into};
use x2ct::tensor::{DType, Tensor};

use crate::support::{devices, host, normal};

/// Exact, for rows of one element, of a prime number, of whole vectors, and of more than a warp takes at once.
#[test]
fn rows_are_copied_to_their_places() {
    for (name, device) in devices() {
        for (rows, d, count) in [(1, 1, 1), (7, 3, 19), (97, 18, 41), (61, 128, 130), (13, 516, 257)] {
            let data = normal(d as u64, rows * d);
            let x = Tensor::from_slice(&device, [rows, d], DType::F32, &data).unwrap();
            let order: Vec<u32> = (0..count).map(|i| (i * 31 % rows) as u32).collect();
            let places = Places::new(&device, &order).unwrap();
            assert_eq!(places.len(), count);
            for range in [0..count, count / 3..count, count / 2..count / 2] {
                let y = Tensor::empty(&device, [range.len(), d], DType::F32, "rows").unwrap();
                gather_into(&x, &places, range.clone(), &y).unwrap();
                let want: Vec<f32> =
                    order[range].iter().flat_map(|&row| &data[row as usize * d..][..d]).copied().collect();
                assert_eq!(y.to_vec().unwrap(), want, "{name}: {rows} x {d}");
            }
        }
    }
}

/// A matrix that starts at no multiple of 16 bytes.
#[test]
fn views_are_gathered_too() {
    for (name, device) in devices() {
        let data = normal(1, 4 * 9 + 1);
        let x = Tensor::from_slice(&device, [37], DType::F32, &data).unwrap().view(1, [9, 4]).unwrap();
        let y = Tensor::empty(&device, [2, 4], DType::F32, "rows").unwrap();
        gather_into(&x, &Places::new(&device, &[8, 2]).unwrap(), 0..2, &y).unwrap();
        assert_eq!(y.to_vec().unwrap(), [&data[33..37], &data[9..13]].concat(), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = host(Default::default());
    let x = Tensor::zeros(&device, [3, 4], DType::F32, "matrix").unwrap();
    let y = Tensor::zeros(&device, [2, 4], DType::F32, "rows").unwrap();
    let says = |places: &[u32], range, y: &Tensor| {
        let places = Places::new(&device, places);
        places.and_then(|places| gather_into(&x, &places, range, y)).unwrap_err().to_string()
    };
    assert!(says(&[], 0..0, &y).contains("there is none"));
    assert!(says(&[0, 3], 0..2, &y).contains("places of up to 3, in a matrix of 3 rows"));
    assert!(says(&[0, 1], 1..3, &y).contains("1 to 3 of 2 places"));
    assert!(says(&[0, 1], 0..1, &y).contains("not [1x4] f32") || says(&[0, 1], 0..1, &y).contains("gathered rows"));
}
