//! Draws the figures of `bench growth`.

use crate::cli::PlotOptions;
use anyhow::{Context, Result, bail};
use plotters::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const AXES: [&str; 3] = ["objects", "watchers", "leases"];
const SIZE: (u32, u32) = (720, 420);

/// One plot: a figure over what it grows with, by subject.
#[derive(Default)]
struct Plot {
    axis: String,
    unit: String,
    lines: BTreeMap<String, Vec<(f64, f64)>>,
}

pub fn run(options: &PlotOptions) -> Result<()> {
    let mut plots: BTreeMap<String, Plot> = BTreeMap::new();
    for file in &options.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let figure: Value =
                serde_json::from_str(line).with_context(|| format!("read {}", file.display()))?;
            take(&mut plots, &figure);
        }
    }
    if plots.is_empty() {
        bail!("the files hold no figure of `bench growth`");
    }
    for (name, plot) in &plots {
        let path = options.out.join(format!("{name}.svg"));
        draw(&path, name, plot).with_context(|| format!("draw {}", path.display()))?;
        eprintln!("{}", path.display());
    }
    Ok(())
}

fn take(plots: &mut BTreeMap<String, Plot>, line: &Value) {
    let name = line["figure"].as_str().unwrap_or_default();
    let axis = AXES.iter().find_map(|axis| Some((*axis, line["detail"][*axis].as_f64()?)));
    let (Some((axis, x)), Some(y), true) = (axis, line["value"].as_f64(), name.starts_with("growth_")) else {
        return;
    };
    let plot = plots.entry(name.to_owned()).or_default();
    plot.axis = axis.to_owned();
    plot.unit = line["unit"].as_str().unwrap_or_default().to_owned();
    let subject = line["subject"].as_str().unwrap_or_default().to_owned();
    plot.lines.entry(subject).or_default().push((x, y));
}

/// Both axes are logarithmic: a straight line that rises by one decade a decade is linear growth.
fn draw(path: &Path, name: &str, plot: &Plot) -> Result<()> {
    let all = || plot.lines.values().flatten();
    // A logarithm has no zero; what was measured at none stands at the left edge.
    let x = |x: f64| x.max(1.0);
    let span = |values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min).max(1e-3);
        let high = values.iter().copied().fold(0.0, f64::max).max(low);
        (low / 1.6)..(high * 1.6)
    };
    let (xs, ys) = (span(all().map(|p| x(p.0)).collect()), span(all().map(|p| p.1).collect()));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let title = name.trim_start_matches("growth_").replace('_', " ");
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{title} ({})", plot.unit), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(plot.axis.as_str())
        .y_desc(plot.unit.as_str())
        .light_line_style(WHITE)
        .draw()?;
    for (i, (subject, points)) in plot.lines.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let points: Vec<(f64, f64)> = points.iter().map(|p| (x(p.0), p.1.max(1e-3))).collect();
        let line = LineSeries::new(points.clone(), color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(subject)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|p| Circle::new(p, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_become_plots_by_subject() {
        let mut plots = BTreeMap::new();
        for (subject, objects, value) in [("a", 10, 1.5), ("a", 100, 9.0), ("b", 10, 3.0)] {
            let line = json!({"figure": "growth_list_latency", "value": value, "unit": "ms", "subject": subject,
                "detail": {"objects": objects}});
            take(&mut plots, &line);
        }
        take(&mut plots, &json!({"figure": "api_get_latency", "value": 1.0, "detail": {"objects": 1}}));
        assert_eq!(plots.len(), 1);
        let plot = &plots["growth_list_latency"];
        assert_eq!(plot.lines["a"], [(10.0, 1.5), (100.0, 9.0)]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        draw(&path, "growth_list_latency", plot).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("list latency (ms)"), "{svg}");
    }
}
