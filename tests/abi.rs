//! What the build script reads of the kernels and writes for Rust and C++, and what it refuses.

#[allow(dead_code)] // the build script writes files with the rest
#[path = "../build/abi/mod.rs"]
mod generator;

use generator::params::{Kind, Length};
use generator::{Abi, Sources, cpp, rust};

const PARAMS: &str = "\
#pragma once

#include <cstdint>

#include \"common/walk.h\"

struct Sum;

/// Sizes at most.
constexpr uint32_t kMostSizes = 3;

/// Operands of a scale.
struct ScaleParams {
    /// What is scaled, `[n]`.
    const void* x;
    /// Partial sums.
    Sum* sums;
    /// Sizes of x.
    uint32_t size[kMostSizes];
    /// How blocks walk.
    Walk walk;
};
";
const WALK: &str = "\
#pragma once
#include <cstdint>
/// Rows a thread visits.
struct Walk {
    /// Rows.
    uint32_t rows;
};
";
const ENTRIES: &str = "\
#include \"params.h\"
/// y = factor x.
X2CT_KERNEL(pool_scale_bf16, ScaleParams, Config<2>, scale<bf16, 2>)
X2CT_KERNEL(pool_scale_f32, ScaleParams, Config<4>, scale<float, 4>)
/// The sum.
X2CT_KERNEL(pool_sum, ScaleParams, Config, sum)
";

/// A family `pool` with the texts above, changed by `edit`.
fn sources(edit: impl Fn(&str, String) -> String) -> Sources {
    let files = [("pool/params.h", PARAMS), ("common/walk.h", WALK), ("pool/pool.cu", ENTRIES)];
    Sources(files.into_iter().map(|(path, text)| (path.to_string(), edit(path, text.to_string()))).collect())
}

fn replaced(file: &str, from: &str, to: &str) -> Sources {
    sources(|path, text| {
        if path != file {
            return text;
        }
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

/// The message for a family in which `from` is `to`.
fn refused(file: &str, from: &str, to: &str) -> String {
    match Abi::read(&replaced(file, from, to)) {
        Ok(_) => panic!("`{to}` in place of `{from}` was taken"),
        Err(problem) => problem.to_string(),
    }
}

fn read(sources: &Sources) -> Abi {
    Abi::read(sources).unwrap_or_else(|problem| panic!("{problem}"))
}

#[test]
fn a_family_is_read_and_written() {
    let abi = read(&sources(|_, text| text));
    let family = &abi.families[0];
    let s = &family.params.structs[0];
    let fields: Vec<_> = s.fields.iter().map(|f| (f.name.as_str(), f.kind.clone(), f.length.clone())).collect();
    assert_eq!(
        fields,
        [
            ("x", Kind::Pointer("void".into()), None),
            ("sums", Kind::Pointer("Sum".into()), None),
            ("size", Kind::Scalar("u32"), Some(Length::Constant("kMostSizes".into()))),
            ("walk", Kind::Struct("Walk".into()), None),
        ]
    );
    // Siblings stand in Rust's order, whatever that of the file.
    let kernels: Vec<(&str, Vec<&str>)> = family
        .kernels
        .iter()
        .map(|kernel| (kernel.name.as_str(), kernel.entries.iter().map(|entry| entry.name.as_str()).collect()))
        .collect();
    assert_eq!(kernels, [("SCALE", vec!["pool_scale_f32", "pool_scale_bf16"]), ("SUM", vec!["pool_sum"])]);

    let text = rust::family(&abi, 0);
    for line in [
        "/// Sizes at most.\npub const MOST_SIZES: usize = 3;",
        "/// Operands of a scale.\n#[repr(C)]\n#[derive(Clone, Copy, Debug, Default)]\npub struct ScaleParams {",
        "    /// What is scaled, `[n]`.\n    pub x: crate::kernels::DevicePtr,",
        "    pub size: [u32; MOST_SIZES],",
        "    pub walk: crate::kernels::shared::Walk,",
        "/// y = factor x.\npub static SCALE: crate::kernels::Kernel<ScaleParams> =",
        "[&entries::pool_scale_f32, &entries::pool_scale_bf16]",
        "link_name = \"x2ct_host_pool_sum\"",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(rust::shared(&abi).contains("pub struct Walk {\n    /// Rows.\n    pub rows: u32,"));
    assert!(rust::families(&abi).contains("&pool::FAMILY,"));
    assert!(cpp::layouts(&abi).contains("{\"size\", offsetof(ScaleParams, size), sizeof(ScaleParams::size)},"));
}

/// What is written follows the order of the header alone: a field more, or two that change places, is one edit.
#[test]
fn fields_follow_the_header() {
    let x = "    /// What is scaled, `[n]`.\n    const void* x;\n";
    let sums = "    /// Partial sums.\n    Sum* sums;\n";
    let added = replaced("pool/params.h", x, &format!("{x}    /// How x is scaled.\n    float factor;\n"));
    let swapped = replaced("pool/params.h", &format!("{x}{sums}"), &format!("{sums}{x}"));
    for (sources, order) in
        [(added, ["pub x:", "pub factor: f32,", "pub sums:"]), (swapped, ["pub sums:", "pub x:", "pub size:"])]
    {
        let abi = read(&sources);
        let (rust, cpp) = (rust::family(&abi, 0), cpp::layouts(&abi));
        let places: Vec<usize> = order.iter().map(|field| rust.find(field).expect(field)).collect();
        assert!(places.is_sorted(), "{rust}");
        let field = |text: &str| format!("offsetof(ScaleParams, {})", text[4..].split(':').next().unwrap());
        let places: Vec<usize> = order.iter().map(|text| cpp.find(&field(text)).expect(text)).collect();
        assert!(places.is_sorted(), "{cpp}");
    }
}

#[test]
fn what_the_subset_does_not_promise_is_refused() {
    let size = "uint32_t size[kMostSizes];";
    for (to, wanted) in [
        (
            "size_t size;",
            "kernels/pool/params.h:19: `size_t`, the type of `size`, is unknown; use a type such as uint32_t",
        ),
        ("bool size;", "`bool`, the type of `size`, is unknown"),
        ("Other* size;", "`Other`, the type of `size`, is unknown; declare the struct above"),
        ("Sum size;", "`Sum`, the type of `size`, is unknown"),
        ("uint32_t size : 3;", "The declaration of `ScaleParams::size` is not of this subset"),
        ("uint32_t size = 3;", "is not of this subset"),
        ("uint32_t size, more;", "one field a declaration"),
        ("uint32_t size[2][2];", "is not of this subset"),
        ("uint32_t size[33];", "`ScaleParams::size` has 33 elements; use 1 to 32."),
        ("uint32_t size[0];", "has 0 elements"),
        ("uint32_t size[kOther];", "`kOther`, the length of `size`, is unknown"),
        ("void** size;", "A pointer to a pointer"),
        ("const uint32_t size;", "A `const` field cannot be filled in"),
        ("alignas(16) uint32_t size;", "The name of a field of `ScaleParams` is missing."),
        ("uint32_t x;", "`ScaleParams::x` is declared on line 15 too."),
        ("uint32_t size; /* why */", "A comment here is `//`"),
    ] {
        let message = refused("pool/params.h", size, to);
        assert!(message.contains(wanted), "{to}: {message}");
    }
    for (from, to, wanted) in [
        ("struct ScaleParams {", "struct ScaleParams : Base {", "no base classes"),
        ("struct ScaleParams {", "union ScaleParams {", "`union` begins neither"),
        ("constexpr uint32_t", "constexpr int", "A constant is a `uint32_t`"),
        ("= 3;", "= 1 + 2;", "`;` is missing"),
        ("#include <cstdint>", "#include <vector>", "kernels/pool/params.h:3: Only `#pragma once`"),
        ("common/walk.h", "common/other.h", "kernels/pool/params.h:5: `common/other.h` is not below kernels."),
    ] {
        let message = refused("pool/params.h", from, to);
        assert!(message.contains(wanted), "{to}: {message}");
    }
}

#[test]
fn everything_is_documented() {
    for (file, doc, wanted) in [
        (
            "pool/params.h",
            "    /// Sizes of x.\n",
            "kernels/pool/params.h:18: `ScaleParams::size` has no documentation",
        ),
        ("pool/params.h", "/// Operands of a scale.\n", "The struct `ScaleParams` has no documentation"),
        ("pool/params.h", "/// Sizes at most.\n", "The constant `kMostSizes` has no documentation"),
        ("common/walk.h", "    /// Rows.\n", "kernels/common/walk.h:5: `Walk::rows` has no documentation"),
        ("pool/pool.cu", "/// The sum.\n", "kernels/pool/pool.cu:5: `pool_sum` has no documentation"),
    ] {
        let message = refused(file, doc, "");
        assert!(message.contains(wanted) && message.contains("write a line `/// ...` above it"), "{message}");
    }
}

#[test]
fn entries_are_checked() {
    let sum = "X2CT_KERNEL(pool_sum, ScaleParams, Config, sum)";
    for (to, wanted) in [
        (
            "X2CT_KERNEL(pool_sum, Other, Config, sum)",
            "kernels/pool/pool.cu:6: `Other` is no struct of kernels/pool/params.h",
        ),
        (
            "X2CT_KERNEL(pool_scale_f32, ScaleParams, Config, sum)",
            "`pool_scale_f32` is an entry at kernels/pool/pool.cu:4 too",
        ),
        ("X2CT_KERNEL(pool_sum, ScaleParams)", "An entry is `X2CT_KERNEL(name, Params, Config, body)`."),
        ("X2CT_KERNEL(pool_sum, ScaleParams,", "An entry is a line of its own"),
        ("#define MORE X2CT_KERNEL(pool_sum, ScaleParams, Config, sum)", "An entry is a line of its own"),
        (
            "X2CT_KERNEL(pool_sum_bf16, ScaleParams, Config, sum)\nX2CT_KERNEL(pool_sum_i16, ScaleParams, Config, sum)",
            "The kernel `SUM` lacks an entry",
        ),
    ] {
        let message = refused("pool/pool.cu", sum, to);
        assert!(message.contains(wanted), "{to}: {message}");
    }
    let message = refused("pool/pool.cu", "pool_scale_f32, ScaleParams", "pool_scale_f32, Walk");
    assert!(
        message.contains("`pool_scale_f32` takes `Walk` and its sibling `pool_scale_bf16` takes `ScaleParams`"),
        "{message}"
    );
}

#[test]
fn families_are_whole_and_their_names_unique() {
    let without = |name: &str| {
        let mut sources = sources(|_, text| text);
        sources.0.remove(name);
        Abi::read(&sources).err().expect("half a family").to_string()
    };
    assert!(without("pool/params.h").contains("kernels/pool/pool.cu:1: `pool/params.h` is missing"));
    assert!(without("pool/pool.cu").contains("kernels/pool/params.h:1: `pool/pool.cu` is missing"));

    let mut twice = sources(|_, text| text);
    for (path, text) in [("other/params.h", PARAMS), ("other/other.cu", ENTRIES)] {
        twice.0.insert(path.into(), text.into());
    }
    let message = Abi::read(&twice).err().expect("two structs of one name").to_string();
    assert!(message.contains("`ScaleParams` is declared in kernels/other/params.h too"), "{message}");

    twice.0.insert("other/params.h".into(), PARAMS.replace("ScaleParams", "OtherParams"));
    twice.0.insert("other/other.cu".into(), ENTRIES.replace("ScaleParams", "OtherParams"));
    let message = Abi::read(&twice).err().expect("two entries of one name").to_string();
    assert!(
        message.contains("kernels/pool/pool.cu:4: `pool_scale_f32` is an entry at kernels/other/other.cu:4 too"),
        "{message}"
    );
}
