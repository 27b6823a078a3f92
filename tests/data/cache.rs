//! The embedding cache written and read back, and against every kind of damage.

use std::fs;
use std::path::Path;

use x2ct::data::cache::{EmbeddingCache, Embeddings};
use x2ct::data::cts::Cts;
use x2ct::data::provenance::Provenance;
use x2ct::data::rows;

use super::assert_says;

/// Embeddings of three pairs in four dimensions.
fn cache() -> EmbeddingCache {
    let unit = |count: usize, seed: usize| {
        let mut values: Vec<f32> = (0..count * 4).map(|i| ((i * 37 + seed * 11) % 23) as f32 - 10.5).collect();
        rows::l2_normalise("rows", &mut values, 4).unwrap();
        values
    };
    let embeddings = Embeddings {
        ids: ["valid_1_a_1", "valid_1_a_2", "odd \"é\\ name"].map(String::from).to_vec(),
        ct: unit(3, 1),
        report: unit(3, 2),
        dim: 4,
        prompts_positive: unit(18, 3),
        prompts_negative: unit(18, 4),
        teacher: "phantom teacher".into(),
        checkpoint_digest: "c".repeat(64),
        preprocessing_digest: "d".repeat(64),
        volume_digests: vec!["1".repeat(64), "2".repeat(64), "3".repeat(64)],
        report_digests: Vec::new(),
        cts: Cts::new(vec!["4".repeat(64), String::new(), "6".repeat(64)]),
        made: Provenance::made(Default::default(), [("volumes", Provenance::default())]),
    };
    embeddings.into()
}

#[test]
fn a_written_cache_reads_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    cache().write(&path).unwrap();
    let read = EmbeddingCache::read(&path).unwrap();
    assert_eq!(read, cache());
    assert_eq!((read.row("valid_1_a_2"), read.row("valid_9_a_1")), (Some(1), None));
    assert_eq!(read.index()[read.ids[2].as_str()], 2);
    let bytes = fs::read(&path).unwrap();
    read.write(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "equal caches are equal files");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
    // Others may read it as they may read any new file here (mode 0644 under the usual umask), unlike a temporary file.
    let plain = folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions(), fs::metadata(&plain).unwrap().permissions());
}

/// Written by `write_cache` of tools/x2ct_files.py.
#[test]
fn a_cache_written_by_python_is_read() {
    let read = EmbeddingCache::read("tests/golden/cache_from_python.safetensors").unwrap();
    assert_eq!((read.ids.as_slice(), read.dim), (cache().ids.as_slice(), 4));
    assert_eq!(
        (read.teacher.as_str(), &read.checkpoint_digest, &read.preprocessing_digest),
        ("CT-CLIP", &"c".repeat(64), &"d".repeat(64))
    );
    assert_eq!(read.prompts_positive.len(), 72);
    assert!(!read.provenance().known && read.provenance().digest.len() == 64);
}

/// Changes one byte in place: rewriting the whole file for each of thousands of cases takes half a minute.
fn write_byte(path: &Path, at: usize, byte: u8) {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[byte]).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    cache().write(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for (at, byte) in good.iter().enumerate() {
        for bit in 0..8 {
            write_byte(&path, at, byte ^ (1 << bit));
            let error =
                EmbeddingCache::read(&path).expect_err(&format!("bit {bit} of byte {at} went unnoticed")).to_string();
            assert!(error.contains("cache.safetensors") && !error.contains('\n'), "{error}");
        }
        write_byte(&path, at, *byte);
    }
}

#[test]
fn a_truncated_cache_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    cache().write(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let whole = file.metadata().unwrap().len();
    for length in std::iter::once(whole + 1).chain((0..whole).rev()) {
        file.set_len(length).unwrap();
        let error = EmbeddingCache::read(&path).expect_err(&format!("{length} bytes were accepted")).to_string();
        assert_says(&error, &["cache.safetensors", "is not a whole safetensors file", "write the cache again"]);
    }
    assert_says(
        &EmbeddingCache::read(folder.path().join("absent")).unwrap_err().to_string(),
        &["cannot open the cache", "check the path"],
    );
    assert!(EmbeddingCache::read(folder.path()).is_err(), "a folder is no cache");
}

#[test]
fn a_cache_that_makes_no_sense_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    let refused = |edit: &dyn Fn(&mut EmbeddingCache)| {
        let mut c = cache();
        edit(&mut c);
        let error = c.write(&path).unwrap_err().to_string();
        assert!(!path.exists());
        error
    };
    assert_says(&refused(&|c| c.report[5] = f32::NAN), &["cache tensor report: row 1, column 1 is NaN"]);
    assert_says(&refused(&|c| c.ct[8..12].fill(0.9)), &["cache tensor ct: row 2 has length 1.8"]);
    assert_says(&refused(&|c| c.ids[2] = c.ids[0].clone()), &["id \"valid_1_a_1\" stands twice"]);
    assert_says(&refused(&|c| c.ids.truncate(2)), &["cache tensor ct has 3 rows, not 2"]);
    assert_says(&refused(&|c| c.prompts_negative.truncate(4)), &["prompts_negative has 1 rows, not 18"]);
    assert_says(&refused(&|c| c.teacher.clear()), &["its teacher is empty"]);
    assert_says(&refused(&|c| c.dim = 0), &["empty"]);
    assert_says(&refused(&|c| c.volume_digests.truncate(2)), &["2 volume digests for 3 ids"]);
    assert_says(&refused(&|c| c.cts = Cts::new(vec!["4".repeat(64)])), &["ct_digests: there are 1 for 3 ids"]);
    assert_says(&refused(&|c| c.ct.clear()), &["cache tensor ct: is empty"]);
}

#[test]
fn files_of_another_format_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let data = [0u8; 16];
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &data).unwrap();
    let write = |metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        fs::write(&path, safetensors::serialize([("fc.weight", &tensor)], Some(metadata)).unwrap()).unwrap();
        EmbeddingCache::read(&path).unwrap_err().to_string()
    };
    assert_says(&write(&[]), &["weights.safetensors", "has format \"\", not \"x2ct-cache-1\""]);
    assert_says(
        &write(&[("checksum", ""), ("format", "x2ct-cache-0")]),
        &["has format \"x2ct-cache-0\", not \"x2ct-cache-1\""],
    );
    assert_says(
        &write(&[("checksum", "0"), ("format", "x2ct-cache-1")]),
        &["but 0 is recorded: it was changed or damaged"],
    );
    let mut sound = x2ct::archive::Writer::new("x2ct-cache-1");
    sound.set("ids", "[]");
    sound.put_f32("fc.weight", &[2, 2], &[0.0; 4]);
    sound.write(&path).unwrap();
    let error = EmbeddingCache::read(&path).unwrap_err().to_string();
    assert_says(&error, &["weights.safetensors", "holds the tensors fc.weight, not ct, "]);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = cache().write(folder.path().join("absent/cache.safetensors")).unwrap_err().to_string();
    assert_says(&error, &["absent/cache.safetensors: cannot write", "check the path"]);
    let error = cache().write(folder.path()).unwrap_err().to_string();
    assert_says(&error, &["is a folder; name a file in it"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing temporary is left");
}
