//! Large files that are removed: gone at once by name, and little by little by space, unless somebody still needs them.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use runtime::{File as _, OpenMode, Runtime as _};
use runtime_glommio::GlommioRuntime;

use super::{PATIENCE, on_shard, scratch};

const BYTES: usize = 24 << 20;

/// Much longer than a few steps take.
const WHILE: Duration = Duration::from_millis(100);

/// Writes a file, and opens it so that its length is seen whatever becomes of its name.
fn seen(path: &Path, bytes: usize) -> fs::File {
    fs::File::create(path).unwrap().write_all(&vec![7; bytes]).unwrap();
    fs::File::open(path).unwrap()
}

fn len(file: &fs::File) -> u64 {
    file.metadata().unwrap().len()
}

/// Waits until nothing is left of a file, and answers the lengths that it had meanwhile.
async fn lengths_until_empty(runtime: &GlommioRuntime, file: &fs::File) -> Vec<u64> {
    let (start, mut lengths) = (Instant::now(), vec![len(file)]);
    while lengths.last() != Some(&0) {
        assert!(start.elapsed() < PATIENCE, "{lengths:?}");
        runtime.sleep(Duration::from_micros(200)).await;
        lengths.push(len(file));
        lengths.dedup();
    }
    lengths
}

#[test]
fn a_large_file_is_gone_at_once_and_its_space_little_by_little() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let [one, two] = ["one", "two"].map(|name| scratch.path().join(name));
        let files = [seen(&one, BYTES), seen(&two, BYTES)];
        runtime.remove_file(&one).await.unwrap();
        runtime.remove_file(&two).await.unwrap();
        assert!(!one.exists() && !two.exists());
        for file in &files {
            let lengths = lengths_until_empty(&runtime, file).await;
            assert!(lengths.len() > 3 && lengths.is_sorted_by(|a, b| a > b), "{lengths:?}");
        }
    });
}

#[test]
fn a_file_that_is_open_stays_whole() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let [one, other] = ["one", "other"].map(|name| scratch.path().join(name));
        let files = [seen(&one, BYTES), seen(&other, BYTES)];
        let open = runtime.open(&one, OpenMode::Read).await.unwrap();
        runtime.remove_file(&one).await.unwrap();
        runtime.remove_file(&other).await.unwrap();
        lengths_until_empty(&runtime, &files[1]).await;
        runtime.sleep(WHILE).await;
        assert_eq!(len(&files[0]), BYTES as u64, "others behind it go first");
        assert_eq!(*open.read(BYTES as u64 - 4096, 4096).await.unwrap(), [7; 4096]);
        drop(open);
        lengths_until_empty(&runtime, &files[0]).await;
    });
}

#[test]
fn a_file_with_another_name_and_a_small_one_stay_whole() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let [one, link, small] = ["one", "link", "small"].map(|name| scratch.path().join(name));
        let files = [seen(&one, BYTES), seen(&small, 1 << 20)];
        fs::hard_link(&one, &link).unwrap();
        runtime.remove_file(&one).await.unwrap();
        runtime.remove_file(&small).await.unwrap();
        runtime.sleep(WHILE).await;
        assert_eq!(files.each_ref().map(len), [BYTES as u64, 1 << 20]);
        assert_eq!(fs::read(&link).unwrap(), vec![7; BYTES]);
    });
}
