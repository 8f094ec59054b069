//! The output of a run: for each row the contestant, the floor or peer, the ratio, the target, and whether the target
//! is met. The same as markdown.

use std::fmt::Write as _;
use std::path::Path;

use crate::contest::Times;

/// The target of a line.
#[derive(Clone, Copy)]
pub enum Target {
    /// At most so many times the floor.
    Within(f64),
    /// At least so many times faster than the peer.
    Faster(f64),
    /// At least so many times the other's rate.
    AtLeast(f64),
    /// At most this value; there is no other contestant.
    Below(f64),
    /// At least this value; there is no other contestant.
    Above(f64),
    /// No target: the line is only shown.
    Shown,
}

/// One line of a run: a contestant, what it is compared with, and the target.
pub struct Line {
    pub row: &'static str,
    pub case: String,
    pub unit: &'static str,
    pub ours: (String, Times),
    pub other: Option<(String, Times)>,
    pub target: Target,
}

impl Line {
    fn ratio(&self, quantile: f64) -> Option<f64> {
        let other = &self.other.as_ref()?.1;
        let ratio = self.ours.1.at(quantile) / other.at(quantile);
        Some(match self.target {
            Target::Faster(_) => 1.0 / ratio,
            _ => ratio,
        })
    }

    fn verdict(&self) -> &'static str {
        let value = self.ours.1.median();
        let met = match (self.target, self.ratio(0.5)) {
            (Target::Within(most), Some(ratio)) => ratio <= most,
            (Target::Faster(least), Some(ratio)) => ratio >= least,
            (Target::AtLeast(least), Some(ratio)) => ratio >= least,
            (Target::Below(most), _) => value <= most,
            (Target::Above(least), _) => value >= least,
            _ => return "",
        };
        if met { "met" } else { "MISSED" }
    }

    fn cells(&self) -> [String; 7] {
        let times = |(name, times): &(String, Times)| {
            let (low, middle, high) = (times.at(0.1), times.median(), times.at(0.9));
            format!("{name} {} [{}..{}]", short(middle), short(low), short(high))
        };
        let ratio = |quantile| {
            self.ratio(quantile)
                .map_or(String::new(), |ratio| format!("{ratio:.2}"))
        };
        let target = match self.target {
            Target::Within(most) => format!("<= {most} x"),
            Target::Faster(least) => format!(">= {least} x faster"),
            Target::AtLeast(least) => format!(">= {least} x"),
            Target::Below(most) => format!("<= {} {}", short(most), self.unit),
            Target::Above(least) => format!(">= {} {}", short(least), self.unit),
            Target::Shown => String::new(),
        };
        [
            format!("{}, {}", self.case, self.unit),
            times(&self.ours),
            self.other.as_ref().map_or(String::new(), times),
            ratio(0.5),
            ratio(0.1),
            target,
            self.verdict().to_owned(),
        ]
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// An item of a markdown list, in lines of at most 100 columns.
fn item(text: &str) -> String {
    let (mut item, mut line) = (String::new(), "-".to_owned());
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > 100 {
            item.push_str(&line);
            item.push('\n');
            line = " ".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    item + &line + "\n"
}

/// What a line measures: the row, the case in this row, and the unit.
pub struct Case {
    row: &'static str,
    case: String,
    unit: &'static str,
}

impl Case {
    pub fn new(row: &'static str, case: impl Into<String>, unit: &'static str) -> Self {
        let case = case.into();
        Self { row, case, unit }
    }
}

/// All lines of a run.
pub struct Report {
    pub conditions: Vec<String>,
    pub lines: Vec<Line>,
    pub notes: Vec<String>,
    /// Whether targets are ignored.
    pub smoke: bool,
    /// Whether the output is for a program.
    pub raw: bool,
}

impl Report {
    /// Adds a line and prints it.
    pub fn line(
        &mut self,
        case: &Case,
        ours: (&str, Times),
        other: Option<(&str, Times)>,
        target: Target,
    ) {
        let Case { row, case, unit } = case;
        let line = Line {
            row,
            case: case.clone(),
            unit,
            ours: (ours.0.to_owned(), ours.1),
            other: other.map(|(name, times)| (name.to_owned(), times)),
            target: if self.smoke { Target::Shown } else { target },
        };
        if self.raw {
            let (name, times) = &line.ours;
            println!(
                "{row}\t{}, {name}, {unit}\t{}\t{}",
                line.case,
                times.median(),
                times.at(0.1)
            );
        } else {
            let [case, ours, other, ratio, best, target, verdict] = line.cells();
            println!(
                "{row:<10} {case:<46} {ours:<40} {other:<44} {ratio:>8} {best:>8}  {target:<16} {verdict}"
            );
        }
        self.lines.push(line);
    }

    pub fn heading(&self) {
        if !self.raw {
            println!(
                "{:<10} {:<46} {:<40} {:<44} {:>8} {:>8}  target",
                "row", "case", "contestant: median [p10..p90]", "beside", "ratio", "at p10"
            );
        }
    }

    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.raw {
            println!("           {text}");
        }
        self.notes.push(text);
    }

    pub fn summary(&self) {
        let count = |verdict| self.lines.iter().filter(|l| l.verdict() == verdict).count();
        if !self.raw {
            let judged = count("met") + count("MISSED");
            println!(
                "{} lines, {judged} with a target: {} met, {} missed",
                self.lines.len(),
                count("met"),
                count("MISSED")
            );
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for condition in &self.conditions {
            text.push_str(&item(condition));
        }
        let mut row = "";
        for line in &self.lines {
            if line.row != row {
                row = line.row;
                let _ = write!(
                    text,
                    "\n**{row}**\n\n| case | contestant: median [p10..p90] | beside | ratio | at p10 | target | |\n|---|---|---|---|---|---|---|\n"
                );
            }
            let _ = writeln!(text, "| {} |", line.cells().join(" | "));
        }
        if !self.notes.is_empty() {
            let _ = writeln!(text);
        }
        for note in &self.notes {
            text.push_str(&item(note));
        }
        text
    }

    /// Puts the tables between the marks of docs/performance.md.
    pub fn write_into(&self, document: &Path) -> std::io::Result<()> {
        const BEGIN: &str = "<!-- begin measured -->\n";
        const END: &str = "<!-- end measured -->";
        let text = std::fs::read_to_string(document)?;
        let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
            return Err(std::io::Error::other("the marks are not there"));
        };
        let head = &text[..begin + BEGIN.len()];
        std::fs::write(
            document,
            format!("{head}\n{}\n{}", self.markdown(), &text[end..]),
        )
    }
}
