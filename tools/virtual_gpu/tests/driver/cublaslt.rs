//! Products of the stand-in for cuBLASLt against loops.

use super::*;

const ROWS: usize = 3;
const COLUMNS: usize = 4;
const INNER: usize = 5;

fn upload(values: &[f32]) -> u64 {
    let mut address = 0;
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut address, size_of_val(values)), OK);
        assert_eq!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)), OK);
    }
    address
}

fn layout(rows: usize, columns: usize) -> Handle {
    let mut layout = null_mut();
    unsafe { assert_eq!(cublasLtMatrixLayoutCreate(&mut layout, 0, rows as u64, columns as u64, rows as i64), OK) };
    layout
}

fn description(attributes: &[(u32, &[u8])]) -> Handle {
    let mut description = null_mut();
    unsafe {
        assert_eq!(cublasLtMatmulDescCreate(&mut description, 68, 0), OK);
        for (attribute, value) in attributes {
            assert_eq!(cublasLtMatmulDescSetAttribute(description, *attribute, value.as_ptr().cast(), value.len()), OK);
        }
    }
    description
}

/// Small whole numbers: sums are exact.
fn numbers(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|n| (n * step % 11) as f32 - 5.0).collect()
}

#[test]
fn products_are_of_columns_with_either_operand_transposed() {
    attach();
    let (a, b, c) = (numbers(ROWS * INNER, 3), numbers(INNER * COLUMNS, 7), numbers(ROWS * COLUMNS, 5));
    let bias = [10.0, 20.0, 30.0];
    for transposed in 0..4 {
        let (transpose_a, transpose_b) = (transposed & 1 != 0, transposed & 2 != 0);
        let at = |values: &[f32], rows: usize, columns: usize, transposed: bool, row: usize, column: usize| {
            if transposed { values[column + row * columns] } else { values[row + column * rows] }
        };
        let shape = |rows, columns, transposed| if transposed { layout(columns, rows) } else { layout(rows, columns) };
        let [a_device, b_device, c_device, bias_device] = [&a[..], &b, &c, &bias].map(upload);
        let out = upload(&[f32::NAN; ROWS * COLUMNS]);
        let flag = |flag: bool| (flag as i32).to_ne_bytes();
        let described = description(&[
            (3, &flag(transpose_a)),
            (4, &flag(transpose_b)),
            (7, &4u32.to_ne_bytes()),
            (8, &bias_device.to_ne_bytes()),
        ]);
        let stream = stream();
        let (alpha, beta) = (2.0f32, -1.0f32);
        let code = unsafe {
            cublasLtMatmul(
                null_mut(),
                described,
                &alpha,
                a_device,
                shape(ROWS, INNER, transpose_a),
                b_device,
                shape(INNER, COLUMNS, transpose_b),
                &beta,
                c_device,
                layout(ROWS, COLUMNS),
                out,
                layout(ROWS, COLUMNS),
                null_mut(),
                null_mut(),
                0,
                stream,
            )
        };
        assert_eq!(code, 0);
        let found: Vec<f32> = read_after(stream, out, ROWS * COLUMNS).into_iter().map(f32::from_bits).collect();
        for column in 0..COLUMNS {
            for row in 0..ROWS {
                let sum: f32 = (0..INNER)
                    .map(|n| at(&a, ROWS, INNER, transpose_a, row, n) * at(&b, INNER, COLUMNS, transpose_b, n, column))
                    .sum();
                let place = row + column * ROWS;
                assert_eq!(found[place], alpha * sum + beta * c[place] + bias[row], "{transposed}: {row}, {column}");
            }
        }
    }
}

/// As gradients of weights sum over all voxels of a batch, many of which are alike.
#[test]
fn a_long_sum_of_like_products_keeps_its_digits() {
    attach();
    const LONG: usize = 1 << 20;
    let [a, b] = [0.1f32, 0.7].map(|value| upload(&vec![value; LONG]));
    let (out, stream, none) = (upload(&[f32::NAN]), stream(), null_mut());
    let code = unsafe {
        let (described, by, into) = (description(&[]), layout(LONG, 1), layout(1, 1));
        cublasLtMatmul(
            none,
            described,
            &1.0,
            a,
            layout(1, LONG),
            b,
            by,
            &0.0,
            out,
            into,
            out,
            into,
            none,
            none,
            0,
            stream,
        )
    };
    assert_eq!(code, 0);
    let found = f32::from_bits(read_after(stream, out, 1)[0]) as f64;
    let exact = 0.1f32 as f64 * 0.7f32 as f64 * LONG as f64;
    assert!((found / exact - 1.0).abs() < 1e-4, "{found}, not {exact}");
}

#[test]
fn sizes_that_do_not_fit_and_operands_outside_of_memory_are_refused() {
    attach();
    let values = upload(&[1.0; 16]);
    let product = |a: Handle, b: Handle, out: Handle| unsafe {
        let one = 1.0f32;
        let (described, none) = (description(&[]), null_mut());
        cublasLtMatmul(none, described, &one, values, a, values, b, &0.0, values, out, values, out, none, none, 0, none)
    };
    assert_eq!(product(layout(4, 4), layout(4, 4), layout(4, 4)), 0);
    assert_eq!(product(layout(4, 3), layout(4, 4), layout(4, 4)), 7);
    assert_eq!(product(layout(4, 4), layout(4, 4), layout(4, 3)), 7);
    assert_eq!(product(layout(5, 4), layout(4, 4), layout(5, 4)), 7);
}
