mod eval;

#[test]
fn package_builds() {}
