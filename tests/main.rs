#[test]
fn package_builds() {}
