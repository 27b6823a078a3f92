//! What a CT encoder embeds for `cache build` and `eval`: prepared volumes and the texts of their reports. A volume that cannot be
//! used costs itself alone.

use std::path::Path;

use x2ct::data::cache::EmbeddingCache;
use x2ct::data::volumes::{LeftOut, VolumeSet};
use x2ct::train::{CtTeacher, Texts, Watch};

use crate::chain::Chain;
use crate::terminal::Progress;

/// Volumes and texts, each with its file.
pub struct Material<'a> {
    pub volumes: VolumeSet,
    pub texts: Texts,
    /// The ids of all volumes of the file, those that cannot be used too.
    pub of_file: Vec<String>,
    volumes_file: &'a Path,
    texts_file: &'a Path,
}

impl<'a> Material<'a> {
    /// Reads volumes and, of the one file or the other, text features or embeddings; compares them with what the teacher was trained
    /// on.
    pub fn read(
        teacher: &CtTeacher,
        volumes_file: &'a Path,
        [features, cache]: [Option<&'a Path>; 2],
        chain: &mut Chain,
    ) -> x2ct::Result<Self> {
        let texts = Texts::read(features, cache)?;
        let texts_file = features.or(cache).unwrap_or(volumes_file);
        let (volumes, left_out) = VolumeSet::read_usable(volumes_file)?;
        let of_file: Vec<String> = volumes.ids().iter().chain(left_out.iter().map(|bad| &bad.id)).cloned().collect();
        left_out.into_iter().try_for_each(|bad| chain.fail(bad.error))?;
        chain.doubt_origins(volumes_file, &volumes.doubts())?;
        chain.settle(volumes_file, teacher.undecided_volumes(&volumes))?;
        chain.settle(texts_file, teacher.undecided_texts(&texts))?;
        // Embeddings are of a CT themselves, features of none.
        match features {
            Some(_) => chain.settle(volumes_file, Ok(volumes.cts().undecided("volumes", volumes.ids().len())))?,
            None => chain.settle(texts_file, texts.expect_cts(&volumes))?,
        }
        chain.lacks(volumes_file, &of_file, texts_file, texts.ids());
        Ok(Material { volumes, texts, of_file, volumes_file, texts_file })
    }

    /// The file of the volumes and that of the texts.
    pub fn files(&self) -> [&'a Path; 2] {
        [self.volumes_file, self.texts_file]
    }

    /// The cache that `work` makes, and how many of its embeddings were known before.
    pub fn embed(
        self,
        chain: &mut Chain,
        work: impl FnOnce(VolumeSet, &Texts, &mut dyn Watch) -> x2ct::Result<EmbeddingCache>,
    ) -> x2ct::Result<(EmbeddingCache, usize)> {
        let progress = Progress::new("embedding", "volumes", self.volumes.ids().len() as u64);
        let mut teller = Teller { chain, progress, texts_file: self.texts_file, before: None };
        let cache = work(self.volumes, &self.texts, &mut teller);
        teller.progress.finish("");
        Ok((cache.map_err(|e| e.of_file(self.texts_file))?, teller.before.unwrap_or(0)))
    }
}

/// Tells how far the embedding is, and what it leaves out.
struct Teller<'a> {
    chain: &'a mut Chain,
    progress: Progress,
    texts_file: &'a Path,
    before: Option<usize>,
}

impl Watch for Teller<'_> {
    fn done(&mut self, volumes: usize) {
        self.before.get_or_insert(volumes);
        self.progress.set(volumes as u64, "");
    }

    fn left_out(&mut self, bad: LeftOut) -> x2ct::Result<()> {
        self.chain.fail_saying(bad.error.of_file(self.texts_file), |line| self.progress.say(line))
    }
}
