//! Puts mutants into a source: each behind its own `if`, around the expression that contains it.

use std::collections::BTreeMap;

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::Mutant;

/// The offsets of the lines of a text.
pub struct Lines(Vec<usize>);

impl Lines {
    pub fn of(text: &str) -> Self {
        let mut starts = vec![0];
        starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self(starts)
    }

    /// The offset of a line, counted from 1, and a column, counted from 0, in characters. Sources are ASCII.
    pub fn offset(&self, line: usize, column: usize) -> usize {
        self.0[line - 1] + column
    }
}

/// The places of expressions and match arms.
struct Places<'a> {
    lines: &'a Lines,
    /// Binary, unary and struct expressions, and whether a `let` in them keeps them from being moved.
    expressions: Vec<(usize, usize, bool)>,
    arms: Vec<Arm>,
}

/// An arm of a match: its beginning, its guard, and the place of its `=>`.
struct Arm {
    start: usize,
    guard: Option<(usize, usize)>,
    arrow: usize,
}

impl Places<'_> {
    fn range(&self, span: proc_macro2::Span) -> (usize, usize) {
        let (start, end) = (span.start(), span.end());
        (
            self.lines.offset(start.line, start.column),
            self.lines.offset(end.line, end.column),
        )
    }
}

fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Places<'_> {
    fn visit_expr(&mut self, node: &'ast syn::Expr) {
        if matches!(
            node,
            syn::Expr::Binary(_) | syn::Expr::Unary(_) | syn::Expr::Struct(_)
        ) {
            let (start, end) = self.range(node.span());
            self.expressions.push((start, end, has_let(node)));
        }
        visit::visit_expr(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let (start, _) = self.range(node.span());
        let guard = node
            .guard
            .as_ref()
            .map(|(_, guard)| self.range(guard.span()));
        let (arrow, _) = self.range(node.fat_arrow_token.span());
        self.arms.push(Arm {
            start,
            guard,
            arrow,
        });
        visit::visit_arm(self, node);
    }
}

/// A text to be inserted at a place. Closing texts come before opening texts, the innermost first.
struct Insertion {
    at: usize,
    /// The length of the expression that it belongs to, for the order.
    length: usize,
    opens: bool,
    text: String,
}

/// Returns one source with the mutants in it, and the mutants that have no place.
pub fn mutate(source: &str, mutants: &[&Mutant]) -> (String, Vec<usize>) {
    let lines = Lines::of(source);
    let parsed = syn::parse_file(source).expect("Rust");
    let mut places = Places {
        lines: &lines,
        expressions: Vec::new(),
        arms: Vec::new(),
    };
    places.visit_file(&parsed);
    let mut insertions = Vec::new();
    let mut left = Vec::new();
    // Mutants of one expression share an `if`.
    let mut wrapped: BTreeMap<(usize, usize), String> = BTreeMap::new();
    for mutant in mutants {
        let ((start, end), number) = (mutant.span, mutant.number);
        match mutant.genre.as_str() {
            "FnValue" => {
                // The span is the body with or without its braces.
                let brace = source[start..].starts_with('{');
                insertions.push(Insertion {
                    at: start + usize::from(brace),
                    length: end - start,
                    opens: true,
                    text: format!(
                        " if crate::mutated({number}) {{ return {}; }} ",
                        mutant.replacement
                    ),
                });
            }
            "MatchArm" => {
                let arm = places.arms.iter().find(|arm| arm.start == start);
                let Some(Arm { guard, arrow, .. }) = arm else {
                    left.push(number);
                    continue;
                };
                let (at, text) = match guard {
                    Some((guard, _)) => (*guard, format!("!crate::mutated({number}) && ")),
                    None => (*arrow, format!("if !crate::mutated({number}) ")),
                };
                insertions.push(Insertion {
                    at,
                    length: 0,
                    opens: true,
                    text,
                });
            }
            "MatchArmGuard" => {
                let text = format!(
                    "if crate::mutated({number}) {{ {} }} else ",
                    mutant.replacement
                );
                wrapped.entry((start, end)).or_default().push_str(&text);
            }
            _ => {
                let around = places
                    .expressions
                    .iter()
                    .filter(|(from, to, _)| *from <= start && end <= *to)
                    .min_by_key(|(from, to, _)| to - from);
                let Some((from, to, false)) = around.copied() else {
                    left.push(number);
                    continue;
                };
                let text = format!(
                    "if crate::mutated({number}) {{ {}{}{} }} else ",
                    &source[from..start],
                    mutant.replacement,
                    &source[end..to]
                );
                wrapped.entry((from, to)).or_default().push_str(&text);
            }
        }
    }
    for ((from, to), text) in wrapped {
        let length = to - from;
        insertions.push(Insertion {
            at: from,
            length,
            opens: true,
            text: format!("({text}{{ "),
        });
        insertions.push(Insertion {
            at: to,
            length,
            opens: false,
            text: " })".to_owned(),
        });
    }
    insertions.sort_by_key(|insertion| {
        let length = insertion.length;
        let order = if insertion.opens {
            usize::MAX - length
        } else {
            length
        };
        (insertion.at, insertion.opens, order)
    });
    let (mut text, mut at) = (String::new(), 0);
    for insertion in insertions {
        text.push_str(&source[at..insertion.at]);
        text.push_str(&insertion.text);
        at = insertion.at;
    }
    text.push_str(&source[at..]);
    (text, left)
}
