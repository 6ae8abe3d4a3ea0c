//! An index.txt that others write, read by the adapter alone.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::pki::Status;
use std::path::Path;

fn line(serial: usize, status: &str) -> String {
    let at = if status == "R" { "261128172029Z" } else { "" };
    format!("{status}\t270101000000Z\t{at}\t{serial:08X}\tunknown\t/CN={serial}\n")
}

async fn opened(file: &Path) -> IndexTxt {
    let mut source = IndexTxt::new(file.to_owned(), None, &"main".parse().unwrap(), Duration::from_millis(5));
    source.open().await.unwrap();
    source
}

async fn pages(source: &mut IndexTxt, at_most: usize) -> (Vec<Row>, Vec<OddRow>) {
    let (mut rows, mut odd, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = source.page(after.as_ref(), at_most).await.unwrap();
        rows.extend(page.rows);
        odd.extend(page.odd);
        after = page.next;
        if after.is_none() {
            return (rows, odd);
        }
    }
}

/// A number as its file is written for this test.
fn number(row: &Row) -> usize {
    usize::from_str_radix(&row.serial.to_string(), 16).unwrap()
}

#[tokio::test]
async fn pages_of_any_size_hold_every_line_once_and_name_it_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.txt");
    let mut text: String = (1..=100).map(|serial| line(serial, "V")).collect();
    text.insert_str(0, "# a comment\n\n");
    text += "V\tnever\r\n";
    text += &line(101, "R").replace('\n', "\r\n");
    std::fs::write(&file, text).unwrap();
    for at_most in [1, 7, 52, 104, 1_000] {
        let mut source = opened(&file).await;
        let (rows, odd) = pages(&mut source, at_most).await;
        assert!(rows.iter().map(number).eq(1..=101), "{at_most} at once");
        assert_eq!(odd.len(), 1);
        assert!(odd[0].name.ends_with("index.txt, line 103"), "{}", odd[0].name);
        let head = source.head().await.unwrap();
        let batch = source.changes(&head).await.unwrap();
        assert!(batch.rows.is_empty() && batch.drained, "{at_most} at once");
        // Only the first page can be asked for after that.
        let first = source.page(None, 1).await.unwrap();
        source.open().await.unwrap();
        assert!(matches!(source.page(first.next.as_ref(), 1).await, Err(SourceError::Interrupted)));
    }
}

#[tokio::test]
async fn lines_that_wait_since_an_earlier_look_prove_nothing_of_what_was_written_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.txt");
    let text = |last: usize| (1..=last).map(|serial| line(serial, "R")).collect::<String>();
    std::fs::write(&file, text(1)).unwrap();
    let mut source = opened(&file).await;
    let head = source.head().await.unwrap();
    pages(&mut source, 10).await;
    std::fs::write(&file, text(1 + 2 * BATCH)).unwrap();
    let first = source.changes(&head).await.unwrap();
    assert_eq!((first.rows.len(), first.drained), (BATCH, false));
    std::fs::write(&file, text(2 + 2 * BATCH)).unwrap();
    let second = source.changes(&first.position).await.unwrap();
    assert_eq!((second.rows.len(), second.drained), (BATCH, false), "nobody has looked at what came meanwhile");
    let third = source.changes(&second.position).await.unwrap();
    assert_eq!((third.rows.iter().map(number).collect::<Vec<_>>(), third.drained), (vec![2 + 2 * BATCH], true));
}

#[tokio::test]
async fn a_line_that_is_gone_is_told_also_when_others_stand_there_twice() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.txt");
    std::fs::write(&file, [line(1, "V"), line(2, "V"), line(3, "V")].concat()).unwrap();
    let mut source = opened(&file).await;
    let head = source.head().await.unwrap();
    pages(&mut source, 2).await;
    std::fs::write(&file, [line(1, "V"), line(3, "V"), line(3, "R")].concat()).unwrap();
    let batch = source.changes(&head).await.unwrap();
    let gone = Gone::Missing(Key { issuer: "main".into(), serial: vec![2] });
    assert_eq!((batch.gone, batch.drained), (vec![gone], true));
    // The last of several lines has the last word.
    assert_eq!(batch.rows.last().map(|row| row.status == Status::Good), Some(false));
    let head = batch.position;
    std::fs::write(&file, [line(1, "V"), line(3, "V"), line(3, "R"), line(4, "V")].concat()).unwrap();
    let batch = source.changes(&head).await.unwrap();
    assert_eq!(batch.gone, []);
    let last = batch.rows.iter().rfind(|row| number(row) == 3).map(|row| row.status == Status::Good);
    assert!(last.is_none_or(|good| !good));
}
