//! Files of retrieval: what is written is read again, and what cannot be is refused by name.

use x2ct::archive::Writer;
use x2ct::eval::retrieval_file::{Modality, RetrievalFile};

/// A change that makes a file wrong.
type Spoil = fn(&mut RetrievalFile);

fn ids(of: &[&str]) -> Vec<String> {
    of.iter().map(|id| id.to_string()).collect()
}

/// Two queries in a gallery of three, worked out by hand: `a` finds itself second, `c` ties with `a` and counts as first.
fn by_hand() -> RetrievalFile {
    RetrievalFile {
        query: Modality::Cxr,
        gallery: Modality::Report,
        query_ids: ids(&["a", "c"]),
        gallery_ids: ids(&["a", "b", "c"]),
        rank: vec![2, 1],
        nearest: vec![1, 0, 2, 0, 2, 1],
        score: vec![0.9, 0.5, -0.5, 0.25, 0.25, 0.0],
        made: Default::default(),
    }
}

#[test]
fn a_file_is_read_as_it_was_written_and_is_a_table_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ranks.safetensors");
    let file = by_hand();
    file.write(&path).unwrap();
    assert_eq!(RetrievalFile::read(&path).unwrap(), file);
    assert_eq!(file.csv().unwrap(), "query,rank,nearest_1,nearest_2,nearest_3\na,2,b,a,c\nc,1,a,c,b\n");
    assert_eq!(file.nearest_of(1).collect::<Vec<_>>(), [(0, 0.25), (2, 0.25), (1, 0.0)]);
}

#[test]
fn what_retrieval_cannot_have_found_is_refused() {
    let path = std::path::Path::new("never written.safetensors");
    let bad: [(Spoil, &str); 12] = [
        (|f| f.query_ids[1] = "a".into(), "query id \"a\" stands twice"),
        (|f| f.gallery_ids[1] = "c".into(), "gallery id \"c\" stands twice"),
        (|f| f.query_ids[1] = "d".into(), "query \"d\" has no item of its own in the gallery"),
        (|f| f.rank[0] = 0, "query \"a\": rank 0 is not one of 1 to 3"),
        (|f| f.rank[1] = 4, "rank 4 is not one of 1 to 3"),
        (|f| f.rank[1] = 2, "query \"c\": rank 2, but 0 of the nearest score above its own item"),
        (|f| f.nearest[2] = 3, "row 3 is not in a gallery of 3"),
        (|f| f.nearest[2] = 0, "named twice among the nearest"),
        (|f| f.score[2] = f32::NAN, "a score is NaN"),
        (|f| f.score[0] = 0.4, "not in the order of their scores"),
        (|f| f.nearest[3..5].copy_from_slice(&[2, 0]), "not in the order of their scores, equal ones by row"),
        (|f| f.score.truncate(5), "there are 5 scores, not 6"),
    ];
    for (spoil, says) in bad {
        let mut file = by_hand();
        spoil(&mut file);
        let error = file.write(path).unwrap_err().to_string();
        assert!(error.contains(says), "{error} without {says:?}");
        assert!(file.csv().is_err());
    }
}

#[test]
fn half_a_file_a_changed_one_and_another_format_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ranks.safetensors");
    by_hand().write(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], says: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = RetrievalFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("ranks.safetensors") && error.contains(says), "{error} without {says:?}");
    };
    refused(&whole[..whole.len() / 2], "is not a whole safetensors file");
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    refused(&changed, "it was changed or damaged");

    let file = by_hand();
    let write = |query: &str, shape: &[usize]| {
        let mut archive = Writer::new("x2ct-retrieval-1");
        archive.set("query", query);
        archive.set("gallery", "report");
        archive.set("query_ids", r#"["a","c"]"#);
        archive.set("gallery_ids", r#"["a","b","c"]"#);
        archive.put_u32("rank", &[2], &file.rank);
        archive.put_u32("nearest", shape, &file.nearest);
        archive.put_f32("score", &[2, 3], &file.score);
        archive.write(&path).unwrap();
        RetrievalFile::read(&path)
    };
    assert_eq!(write("cxr", &[2, 3]).unwrap(), file);
    let error = write("mri", &[2, 3]).unwrap_err().to_string();
    assert!(error.contains("unknown modality `mri`"), "{error}");
    let error = write("cxr", &[3, 2]).unwrap_err().to_string();
    assert!(error.contains("tensor nearest has the shape [3, 2], not [2, 3]"), "{error}");
}
