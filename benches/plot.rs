//! The plots of docs/: time against dirty pages, module size, chain depth, history length.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;

type Points = Vec<(f64, f64)>;

/// The lines of each plot.
#[derive(Default)]
pub struct Plots(BTreeMap<&'static str, Vec<(String, Points)>>);

const PLOTS: &[(&str, &str, &str)] = &[
    (
        "dirty",
        "Time against dirty pages",
        "dirty pages of a module of 1 GiB",
    ),
    (
        "size",
        "Capture of 1,024 dirty pages against module size",
        "MiB",
    ),
    (
        "depth",
        "Restore of 1,000 pages against chain depth",
        "module commits in the chain",
    ),
    ("history", "Time against the length of history", "commits"),
];

impl Plots {
    pub fn add(&mut self, plot: &'static str, line: &str, points: Points) {
        self.0
            .entry(plot)
            .or_default()
            .push((line.to_owned(), points));
    }

    /// Writes each plot that has lines.
    pub fn write_into(&self, docs: &Path) -> std::io::Result<()> {
        for (name, title, axis) in PLOTS {
            if let Some(lines) = self.0.get(name) {
                let path = docs.join(format!("performance-{name}.svg"));
                draw(&path, title, axis, lines)
                    .map_err(|error| std::io::Error::other(error.to_string()))?;
            }
        }
        Ok(())
    }
}

fn draw(
    path: &Path,
    title: &str,
    axis: &str,
    lines: &[(String, Points)],
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        low.max(0.1) / 1.3..high.max(0.2) * 1.6
    };
    let (x, y) = (
        range(&mut all().map(|p| p.0)),
        range(&mut all().map(|p| p.1)),
    );
    let area = SVGBackend::new(path, (760, 440)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(74)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc("microseconds")
        .light_line_style(WHITE)
        .draw()?;
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        chart
            .draw_series(
                LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
            )?
            .label(name.as_str())
            .legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    Ok(())
}
