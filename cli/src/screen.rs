//! The screen: its width, its characters, and the colours. The command always prints colours; anstream removes
//! them if the output is no terminal, or if NO_COLOR or --color asks for it.

use anstyle::{AnsiColor, Style};
use terminal_size::{Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const fn colour(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(anstyle::Color::Ansi(colour)))
}

pub(crate) const ERROR: Style = colour(AnsiColor::Red).bold();
pub(crate) const WARNING: Style = colour(AnsiColor::Yellow).bold();
pub(crate) const GOOD: Style = colour(AnsiColor::Green).bold();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const LABEL: Style = colour(AnsiColor::Cyan);
pub(crate) const NUMBER: Style = colour(AnsiColor::Yellow);
pub(crate) const HEAD: Style = colour(AnsiColor::Green).bold();
pub(crate) const OLD: Style = colour(AnsiColor::Red);
pub(crate) const NEW: Style = colour(AnsiColor::Green);

/// The text with the codes of a style around it.
pub(crate) fn paint(style: Style, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("{style}{text}{style:#}")
}

/// A line of advice.
pub(crate) fn hint(text: &str) -> String {
    format!("  {DIM}->{DIM:#} {text}")
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) width: usize,
    /// Whether the screen can show characters beyond ASCII.
    pub(crate) unicode: bool,
}

impl Screen {
    /// The width is that of COLUMNS, else that of the terminal, else 80. The locale gives the characters.
    pub(crate) fn of_this_process() -> Self {
        let columns = std::env::var("COLUMNS")
            .ok()
            .and_then(|text| text.parse().ok());
        let width = columns.or_else(|| {
            terminal_size_of(std::io::stdout()).map(|(Width(width), _)| usize::from(width))
        });
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Self {
            width: width.unwrap_or(80).clamp(40, 500),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// The text that this screen can show.
    pub(crate) fn either<'a>(&self, unicode: &'a str, ascii: &'a str) -> &'a str {
        if self.unicode { unicode } else { ascii }
    }

    /// Breaks a text at blanks into lines that are `indent` columns narrower than the screen.
    pub(crate) fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        let room = self.width.saturating_sub(indent).max(20);
        let mut lines = vec![String::new()];
        for word in text.split(' ') {
            let last = lines.len() - 1;
            if lines[last].is_empty() {
                lines[last].push_str(word);
            } else if lines[last].width() + 1 + word.width() <= room {
                lines[last].push(' ');
                lines[last].push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
        lines
    }

    /// Cuts a text to `width` columns. A mark at the end shows the cut.
    pub(crate) fn cut(&self, text: &str, width: usize) -> String {
        if text.width() <= width {
            return text.to_owned();
        }
        let mark = self.either("\u{2026}", "~");
        let mut shown = String::new();
        let mut used = 1;
        for c in text.chars() {
            used += c.width().unwrap_or(0);
            if used > width {
                break;
            }
            shown.push(c);
        }
        if width > 0 {
            shown.push_str(mark);
        }
        shown
    }
}

/// Escapes characters that a terminal would obey. The texts in a store may come from an untrusted source.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The width of a text in columns. The text must have no colour codes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_fits_and_says_so() {
        let screen = Screen {
            width: 80,
            unicode: true,
        };
        assert_eq!(screen.cut("abcdef", 6), "abcdef");
        assert_eq!(screen.cut("abcdef", 4), "abc\u{2026}");
        // A wide character takes two columns.
        assert_eq!(
            screen.cut("\u{4e2d}\u{4e2d}\u{4e2d}", 4),
            "\u{4e2d}\u{2026}"
        );
        assert_eq!(screen.cut("abc", 0), "");
        let plain = Screen {
            width: 80,
            unicode: false,
        };
        assert_eq!(plain.cut("abcdef", 4), "abc~");
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(printable("a\u{1b}[31m\u{202e}b"), "a\\u{1b}[31m\\u{202e}b");
    }
}
