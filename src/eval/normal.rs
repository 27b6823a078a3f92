//! The standard normal distribution, to about 1e-13 relative.

use std::f64::consts::{PI, SQRT_2};

/// `ln(1 - Phi(z))` for `z >= 0`: a series of positive terms near 0, then a continued fraction.
pub fn ln_tail(z: f64) -> f64 {
    let x = z / SQRT_2;
    if x.is_infinite() {
        return f64::NEG_INFINITY;
    }
    if x < 2.0 {
        // erf(x) = 2 exp(-x^2) / sqrt(pi) * sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1))
        let mut term = x;
        let mut sum = x;
        let mut odd = 1.0;
        while term > 1e-18 * sum {
            odd += 2.0;
            term *= 2.0 * x * x / odd;
            sum += term;
        }
        return (0.5 * (1.0 - 2.0 / PI.sqrt() * (-x * x).exp() * sum)).ln();
    }
    // erfc(x) = exp(-x^2) / sqrt(pi) / (x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))), evaluated from the far end: 200
    // levels are converged at x = 2 and more than enough above.
    let fraction = (1..=200).rev().fold(x, |tail, k| x + f64::from(k) / 2.0 / tail);
    -x * x - (2.0 * PI.sqrt() * fraction).ln()
}

/// The distribution function: the probability of a value of at most `z`.
pub fn cdf(z: f64) -> f64 {
    let tail = ln_tail(z.abs()).exp();
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// The value that a share `p` of the distribution does not exceed; infinite at 0 and 1.
pub fn quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -quantile(1.0 - p);
    }
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    // The tail falls from one half at 0 to less than the smallest f64 at 39.
    let (mut low, mut high) = (0.0, 39.0);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if ln_tail(middle) > p.ln() { low = middle } else { high = middle }
    }
    -(low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_invert_the_distribution() {
        // SciPy's norm.ppf.
        for (p, z) in [(0.5, 0.0), (0.975, 1.959963984540054), (0.025, -1.959963984540054), (1e-12, -7.034483825301131)]
        {
            assert!((quantile(p) - z).abs() < 1e-9, "{p}: {}", quantile(p));
            assert!((cdf(z) / p - 1.0).abs() < 1e-9, "{z}: {}", cdf(z));
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
    }
}
