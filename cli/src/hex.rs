//! The bytes that differ, 16 to a line, each old line above the new one.

use anstream::println;
use vmstore::Store;

use crate::screen::{DIM, NEW, OLD, paint};

/// Bytes of one line.
const LINE: usize = 16;

/// Prints the lines of a module in which two commits differ. Each pair of lines takes one from `lines`; at zero,
/// the output stops.
pub(crate) fn differences(
    store: &Store,
    (from, to): (u64, u64),
    module: &str,
    places: &[(u64, u64)],
    lines: &mut u64,
) -> vmstore::Result<()> {
    const PART: u64 = 1 << 16;
    for (offset, length) in places {
        let mut at = *offset;
        while at < offset + length {
            let part = PART.min(offset + length - at) as usize;
            let (mut old, mut new) = (vec![0; part], vec![0; part]);
            read(store, from, module, at, &mut old)?;
            read(store, to, module, at, &mut new)?;
            let pairs = old.chunks(LINE).zip(new.chunks(LINE)).enumerate();
            for (number, (a, b)) in pairs.filter(|(_, (a, b))| a != b) {
                if *lines == 0 {
                    println!(
                        "{}",
                        paint(
                            DIM,
                            &format!("{:>10}  more lines differ; --lines COUNT shows more", "")
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

/// Fills the buffer, which holds zeros, from `offset` on. Bytes that the module does not have at the commit stay
/// zeros.
fn read(
    store: &Store,
    commit: u64,
    module: &str,
    offset: u64,
    buffer: &mut [u8],
) -> vmstore::Result<()> {
    if commit == 0 {
        return Ok(());
    }
    let modules = store.modules(commit)?;
    let size = modules
        .iter()
        .find(|m| m.id == module)
        .map_or(0, |m| m.size);
    let there = size.saturating_sub(offset).min(buffer.len() as u64) as usize;
    if there == 0 {
        return Ok(());
    }
    store.read(commit, module, offset, &mut buffer[..there])
}

/// One line of `bytes`, with colour where `other` differs.
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
