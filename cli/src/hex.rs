//! Bytes that differ, sixteen in a line, old above new.

use anstream::println;
use vmstore::Store;

use crate::screen::{DIM, NEW, OLD, paint};

const LINE: usize = 16;

/// Prints the lines of a module in which two commits differ, at most `lines` of each, and counts them down.
pub(crate) fn differences(
    store: &Store,
    (from, to): (u64, u64),
    module: &str,
    places: &[(u64, u64)],
    lines: &mut u64,
) -> vmstore::Result<()> {
    const PART: u64 = 1 << 16;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for (offset, length) in places {
        let mut at = *offset;
        while at < offset + length {
            let part = PART.min(offset + length - at) as usize;
            read(store, from, module, at, part, &mut old)?;
            read(store, to, module, at, part, &mut new)?;
            let pairs = old.chunks(LINE).zip(new.chunks(LINE)).enumerate();
            for (number, (a, b)) in pairs.filter(|(_, (a, b))| a != b) {
                if *lines == 0 {
                    println!(
                        "{}",
                        paint(
                            DIM,
                            &format!("{:>10}  more differs; --lines shows more", "")
                        )
                    );
                    return Ok(());
                }
                *lines -= 1;
                let address = format!("{:>10x}", at + (number * LINE) as u64);
                println!("{} {}", paint(DIM, &address), line("-", OLD, a, b));
                println!("{} {}", " ".repeat(10), line("+", NEW, b, a));
            }
            at += part as u64;
        }
    }
    Ok(())
}

/// What a commit does not know of a module is zeros.
fn read(
    store: &Store,
    commit: u64,
    module: &str,
    offset: u64,
    length: usize,
    buffer: &mut Vec<u8>,
) -> vmstore::Result<()> {
    buffer.clear();
    buffer.resize(length, 0);
    if commit == 0 {
        return Ok(());
    }
    let modules = store.modules(commit)?;
    let size = modules
        .iter()
        .find(|m| m.id == module)
        .map_or(0, |m| m.size);
    let there = size.saturating_sub(offset).min(length as u64) as usize;
    if there == 0 {
        return Ok(());
    }
    store.read(commit, module, offset, &mut buffer[..there])
}

fn line(mark: &str, style: anstyle::Style, bytes: &[u8], other: &[u8]) -> String {
    let mut digits = String::new();
    let mut text = String::new();
    for (at, (byte, other)) in bytes.iter().zip(other).enumerate() {
        if at == LINE / 2 {
            digits.push(' ');
        }
        let shown = if byte.is_ascii_graphic() || *byte == b' ' {
            char::from(*byte)
        } else {
            '.'
        };
        if byte == other {
            digits.push_str(&format!(" {byte:02x}"));
            text.push(shown);
        } else {
            digits.push_str(&format!(" {style}{byte:02x}{style:#}"));
            text.push_str(&paint(style, &shown.to_string()));
        }
    }
    format!("{}{digits}  {text}", paint(style, mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_digits_and_letters_in_their_columns() {
        let shown = line("-", OLD, b"hello, world\0\xff!?", b"hello, World\0\xff!?");
        let plain = anstream::adapter::strip_str(&shown).to_string();
        assert_eq!(
            plain,
            "- 68 65 6c 6c 6f 2c 20 77  6f 72 6c 64 00 ff 21 3f  hello, world..!?"
        );
        assert!(shown.contains(&paint(OLD, "77")), "{shown:?}");
    }
}
