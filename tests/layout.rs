//! The parameter structs have one layout in both languages, and every kernel agrees with its struct's size.

use std::ffi::CStr;

use x2ct::kernels::FAMILIES;

use crate::support::on_host_and_cuda;

#[test]
fn families_have_slots_of_their_own() {
    let mut slots: Vec<usize> = FAMILIES.iter().map(|f| f.slot).collect();
    slots.sort();
    slots.dedup();
    assert_eq!(slots.len(), FAMILIES.len());
}

#[test]
fn parameter_structs_agree_with_cpp() {
    let mut fields = 0;
    for layout in FAMILIES.iter().flat_map(|f| f.layouts) {
        let table = layout.host.expect("tests are built with the host feature");
        // Safety: the table is a constant that ends with a null name.
        unsafe {
            let mut row = table();
            assert_eq!((*row).size, layout.size, "sizeof {}", layout.name);
            for &(name, offset, size) in layout.fields {
                row = row.add(1);
                assert!(!(*row).name.is_null(), "{}: C++ has no field for {name}", layout.name);
                let cpp = CStr::from_ptr((*row).name).to_str().expect("field names are ASCII");
                assert_eq!((cpp, (*row).offset, (*row).size), (name, offset, size), "{}", layout.name);
                fields += 1;
            }
            assert!((*row.add(1)).name.is_null(), "{}: C++ has more fields", layout.name);
        }
    }
    assert!(fields > 0);
}

/// On a GPU this loads every family, which a launch does on its first use only.
#[test]
fn kernels_agree_with_their_structs() {
    on_host_and_cuda(Default::default(), |device| {
        for entry in FAMILIES.iter().flat_map(|f| f.entries) {
            let config = device.launcher().config(entry).unwrap();
            assert_eq!(config.params_bytes as usize, entry.params_bytes, "{}", entry.name);
            assert!(
                !device.is_host() || config.shared_bytes <= device.properties().shared_bytes_per_block,
                "{}",
                entry.name
            );
        }
    });
}
