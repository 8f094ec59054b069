//! Heat maps: the address space of a module as rows of cells. The more pages of a cell changed, the darker is the
//! cell.

use anstream::println;
use anstyle::{AnsiColor, Color, Style};

use crate::screen::{DIM, LABEL, Screen, paint};
use crate::units::{bytes, count, share};

/// The heat map of one module.
pub(crate) struct Heat {
    /// Pages in each cell, a power of two.
    per_cell: u64,
    columns: u64,
    page: u64,
    /// The width of an address, in characters.
    address: usize,
    /// For each cell, how many of its pages changed, and how many pages the cell has.
    cells: Vec<(u64, u64)>,
}

/// The levels above "unchanged": the least share of changed pages in percent, the character in Unicode and in
/// ASCII, and the colour.
const LEVELS: [(u64, &str, &str, AnsiColor); 4] = [
    (0, "\u{2591}", ".", AnsiColor::Blue),
    (25, "\u{2592}", "+", AnsiColor::Cyan),
    (50, "\u{2593}", "#", AnsiColor::Yellow),
    (100, "\u{2588}", "@", AnsiColor::Red),
];

/// Prints how much of a module changed, and a heat map.
pub(crate) fn print(
    screen: &Screen,
    rows: u64,
    (module, size): (&str, u64),
    page: u64,
    ranges: &[(u64, u64)],
) {
    let changed: u64 = ranges.iter().map(|(_, length)| length).sum();
    println!();
    println!(
        "{}  {} of {}, {}",
        paint(LABEL, module),
        bytes(changed),
        bytes(size),
        share(changed, size)
    );
    let heat = Heat::new(screen, rows, size, page, ranges);
    for line in heat.lines(screen) {
        println!("{line}");
    }
    println!("{}", heat.legend(screen));
}

impl Heat {
    /// Draws at most `rows` rows for a module of `size` bytes. `ranges` are the changed ranges: offset and length
    /// in bytes, both multiples of the page size `page`, in ascending order.
    pub(crate) fn new(
        screen: &Screen,
        rows: u64,
        size: u64,
        page: u64,
        ranges: &[(u64, u64)],
    ) -> Self {
        let pages = size / page;
        let address = format!("{:x}", size.saturating_sub(1)).len().max(8);
        // A row also has the address, a blank and two bars.
        let room = screen.width.saturating_sub(address + 3) as u64;
        let columns = if room >= 128 {
            128
        } else if room >= 64 {
            64
        } else {
            32
        };
        let mut per_cell = 1;
        while pages.div_ceil(per_cell) > columns * rows.max(1) {
            per_cell *= 2;
        }
        let whole = pages.div_ceil(per_cell);
        let mut cells: Vec<(u64, u64)> = (0..whole)
            .map(|at| (0, per_cell.min(pages - at * per_cell)))
            .collect();
        for (offset, length) in ranges {
            let (mut at, end) = (offset / page, (offset + length) / page);
            while at < end {
                let cell = at / per_cell;
                let stop = end.min((cell + 1) * per_cell);
                if let Some((changed, _)) = cells.get_mut(cell as usize) {
                    *changed += stop - at;
                }
                at = stop;
            }
        }
        Self {
            per_cell,
            columns,
            page,
            address,
            cells,
        }
    }

    /// The rows that have changes. Between them, a line gives the number of unchanged rows.
    pub(crate) fn lines(&self, screen: &Screen) -> Vec<String> {
        let bar = paint(DIM, screen.either("\u{2502}", "|"));
        let mut lines = Vec::new();
        let mut unchanged = 0;
        let rows: Vec<&[(u64, u64)]> = self.cells.chunks(self.columns as usize).collect();
        for (number, row) in rows.iter().enumerate() {
            if row.iter().all(|(changed, _)| *changed == 0) {
                unchanged += 1;
                continue;
            }
            self.push_unchanged(&mut lines, unchanged);
            unchanged = 0;
            let at = number as u64 * self.columns * self.per_cell * self.page;
            lines.push(format!(
                "{} {bar}{}{bar}",
                paint(DIM, &format!("{at:>width$x}", width = self.address)),
                cells(screen, row)
            ));
        }
        self.push_unchanged(&mut lines, unchanged);
        lines
    }

    fn push_unchanged(&self, lines: &mut Vec<String>, rows: u64) {
        if rows > 0 {
            let size = bytes(rows * self.columns * self.per_cell * self.page);
            let rows = count(rows, "row");
            lines.push(paint(
                DIM,
                &format!("{:>at$}  {rows} unchanged ({size})", "", at = self.address),
            ));
        }
    }

    /// Explains the cells.
    pub(crate) fn legend(&self, screen: &Screen) -> String {
        let cell = self.per_cell * self.page;
        let mut text = format!("{:>at$}  cell = {}", "", bytes(cell), at = self.address);
        if self.per_cell == 1 {
            let (_, unicode, ascii, colour) = LEVELS[3];
            let mark = paint(fore(colour), screen.either(unicode, ascii));
            return format!("{text}, one page: {} same  {mark} changed", none(screen));
        }
        text.push_str(&format!(
            ", {}: {} 0%",
            count(self.per_cell, "page"),
            none(screen)
        ));
        let shares = ["<25%", "<50%", "<100%", "100%"];
        for ((_, unicode, ascii, colour), share) in LEVELS.iter().zip(shares) {
            text.push_str(&format!(
                "  {} {share}",
                paint(fore(*colour), screen.either(unicode, ascii))
            ));
        }
        text
    }
}

fn fore(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(colour)))
}

fn none(screen: &Screen) -> String {
    paint(DIM, screen.either("\u{b7}", "-"))
}

/// The cells of a row. Adjacent cells of one level share one pair of colour codes.
fn cells(screen: &Screen, row: &[(u64, u64)]) -> String {
    let mut line = String::new();
    let mut open: Option<Style> = None;
    for (changed, pages) in row {
        let (mark, style) = if *changed == 0 {
            (screen.either("\u{b7}", "-"), DIM)
        } else {
            let share = changed * 100 / pages.max(&1);
            let level = LEVELS
                .iter()
                .rev()
                .find(|level| share >= level.0)
                .unwrap_or(&LEVELS[0]);
            (screen.either(level.1, level.2), fore(level.3))
        };
        if open != Some(style) {
            if let Some(style) = open {
                line.push_str(&format!("{style:#}"));
            }
            line.push_str(&style.to_string());
            open = Some(style);
        }
        line.push_str(mark);
    }
    if let Some(style) = open {
        line.push_str(&format!("{style:#}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(size: u64, ranges: &[(u64, u64)]) -> Vec<String> {
        let screen = Screen {
            width: 80,
            unicode: false,
        };
        let heat = Heat::new(&screen, 4, size, 4096, ranges);
        let lines = heat
            .lines(&screen)
            .into_iter()
            .chain([heat.legend(&screen)]);
        lines
            .map(|line| {
                anstream::adapter::strip_str(&line)
                    .to_string()
                    .trim()
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn each_page_counts_once_and_in_its_cell() {
        let page = 4096;
        // 1024 pages in 4 rows of 64 cells of 4 pages.
        let lines = plain(
            1024 * page,
            &[
                (0, page),
                (4 * page, 2 * page),
                (9 * page, 3 * page),
                (12 * page, 4 * page),
                (1023 * page, page),
            ],
        );
        assert_eq!(
            lines[0],
            format!("0 |+#+@{}|", "-".repeat(60)).replace("+#+@", "+##@")
        );
        assert_eq!(lines[1], "2 rows unchanged (2 MiB)");
        assert_eq!(lines[2], format!("300000 |{}+|", "-".repeat(63)));
        assert!(
            lines[3].starts_with("cell = 16 KiB, 4 pages"),
            "{}",
            lines[3]
        );
    }

    #[test]
    fn small_modules_have_a_cell_for_each_page_and_odd_ones_a_short_last_row() {
        assert_eq!(plain(3 * 4096, &[(4096, 4096)])[0], "0 |-@-|");
        // The last cell has fewer pages, and all of them changed.
        let lines = plain(257 * 4096, &[(256 * 4096, 4096)]);
        assert!(lines.iter().any(|line| line.ends_with("|@|")), "{lines:?}");
    }
}
