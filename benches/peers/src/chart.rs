//! Charts: horizontal bars as plain SVG, legible on light and on dark pages.
//!
//! It knows nothing of what is measured, so that the crate's own benches draw with it too.

const WIDTH: f64 = 760.0;
const LEFT: f64 = 210.0;
const BAR: f64 = 20.0;
const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.axis { fill: #59636e }
.bound { fill: #afb8c1 } .peer { fill: #6e9bd1 } .ours { fill: #d9822b }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .axis { fill: #9198a1 }
  .bound { fill: #545d68 } .peer { fill: #4478b5 } .ours { fill: #e8963f }
}
";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Bound,
    Peer,
    Ours,
}

pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) value: f64,
}

/// Bars that are compared.
pub(crate) struct Panel {
    /// What the bars measure, and in which unit.
    pub(crate) axis: String,
    pub(crate) better: Better,
    pub(crate) bars: Vec<Bar>,
}

pub(crate) fn render(title: &str, panels: &[Panel]) -> String {
    let title = escape(title);
    let (mut body, mut y) =
        (format!("<text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n"), 48.0);
    for panel in panels {
        let max = panel.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        let better = if panel.better == Better::Higher { "more" } else { "less" };
        body += &format!(
            "<text class=\"axis\" x=\"8\" y=\"{y}\">{} ({better} is better)</text>\n",
            escape(&panel.axis),
        );
        y += 10.0;
        for bar in &panel.bars {
            let class = match bar.role {
                Role::Bound => "bound",
                Role::Peer => "peer",
                Role::Ours => "ours",
            };
            // Room for the number to the right of the longest bar.
            let width = if max > 0.0 { (WIDTH - LEFT - 100.0) * bar.value / max } else { 0.0 };
            body += &format!(
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" \
                 height=\"{:.0}\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
                LEFT - 8.0,
                y + 13.0,
                escape(&bar.name),
                width.max(1.0),
                BAR - 4.0,
                LEFT + width.max(1.0) + 6.0,
                y + 13.0,
                number(bar.value),
            );
            y += BAR;
        }
        y += 26.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n{body}</svg>\n",
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Three digits that count, with thousands apart.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        let digits = format!("{size:.0}");
        let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
