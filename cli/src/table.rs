//! Tables: numbers are aligned to the right, text to the left. On a narrow screen, one column is cut.

use anstyle::Style;

use crate::screen::{Screen, paint, width};

/// How the cells of a column are aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
    /// To the left, and cut if the line would be wider than the screen.
    Flexible,
}

#[derive(Clone, Default)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) style: Style,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, style: Style) -> Self {
        let text = text.into();
        Self { text, style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::new())
    }
}

pub(crate) struct Table {
    align: Vec<Align>,
    heading: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            align: columns.iter().map(|(_, align)| *align).collect(),
            heading: columns
                .iter()
                .map(|(name, _)| Cell::new(*name, crate::screen::DIM))
                .collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The heading and the rows as lines. The flexible column is cut to fit the screen, but keeps 4 columns.
    pub(crate) fn lines(&self, screen: &Screen) -> Vec<String> {
        let all = || std::iter::once(&self.heading).chain(&self.rows);
        let mut widths: Vec<usize> = (0..self.align.len())
            .map(|at| {
                all()
                    .map(|row| row.get(at).map_or(0, |cell| width(&cell.text)))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let gaps = 2 * widths.len().saturating_sub(1);
        let used: usize = widths.iter().sum::<usize>() + gaps;
        if let Some(flexible) = self
            .align
            .iter()
            .position(|align| *align == Align::Flexible)
        {
            let over = used.saturating_sub(screen.width);
            widths[flexible] = widths[flexible]
                .saturating_sub(over)
                .max(4.min(widths[flexible]));
        }
        all().map(|row| self.line(screen, row, &widths)).collect()
    }

    fn line(&self, screen: &Screen, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        // Blanks are written before the next text, so no line ends in blanks.
        let mut blanks = 0;
        for (at, cell) in row.iter().enumerate() {
            let text = screen.cut(&cell.text, widths[at]);
            let space = widths[at] - width(&text).min(widths[at]);
            if self.align[at] == Align::Right {
                blanks += space;
            }
            if !text.is_empty() {
                line.push_str(&" ".repeat(blanks));
                blanks = 0;
                line.push_str(&paint(cell.style, &text));
            }
            if self.align[at] != Align::Right {
                blanks += space;
            }
            blanks += 2;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flexible_column_is_cut_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&[
            ("n", Align::Right),
            ("label", Align::Flexible),
            ("size", Align::Right),
        ]);
        table.row(vec![
            "7".into(),
            "a label that is much too long for it".into(),
            "4 KiB".into(),
        ]);
        table.row(vec!["12".into(), "".into(), "".into()]);
        let lines = table.lines(&Screen {
            width: 24,
            unicode: false,
        });
        let plain: Vec<String> = lines
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect();
        assert_eq!(
            plain,
            [" n  label           size", " 7  a label that~  4 KiB", "12"]
        );
    }
}
