"""The CSS style sheet of the reports."""

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --muted: #66717f; --line: #e4e8ee; --accent: #2563a8; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 18px; }
h2 { font-size: 18px; margin: 0 0 10px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin: 0 0 18px; }
.lead { color: var(--muted); margin: -6px 0 12px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin-bottom: 14px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 18px; min-width: 108px; }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.card span { color: var(--muted); font-size: 13px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 500; }
.facts th { white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.numbers td:not(:first-child), .numbers th:not(:first-child) { text-align: right; padding: 4px 8px; }
.numbers { flex: 1 1 420px; align-self: flex-start; }
.numbers.narrow { flex: 0 0 200px; align-self: flex-start; }
.advice td { padding: 8px 22px 8px 0; min-width: 190px; }
.columns { display: flex; flex-wrap: wrap; gap: 36px; }
td.bar { position: relative; min-width: 190px; }
td.bar i { position: absolute; left: 24px; top: 7px; height: 16px; max-width: calc(70% - 24px);
  background: #cfe0f2; border-radius: 3px; }
td.bar span { position: relative; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 16px 24px; }
svg { max-width: 100%; height: auto; font-family: inherit; }
.wide { overflow-x: auto; }
.wide svg { max-width: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--muted); padding-left: 62px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 0 18px; }
.beside section { min-width: 0; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; }
figure img { width: 100%; height: 360px; object-fit: contain; background: #f0f2f5;
  border-radius: 6px; display: block; }
.whole img { height: auto; max-width: 960px; margin: 0 auto; }
.clip video { width: 100%; max-width: 960px; border-radius: 6px; display: block; margin: 0 auto; }
figcaption { font-size: 12.5px; color: var(--muted); margin-top: 4px; overflow-wrap: anywhere; }
pre { background: #f6f7f9; padding: 14px; border-radius: 6px; overflow-x: auto; font-size: 12.5px; }
code { font-size: 13px; }
summary { cursor: pointer; margin-top: 12px; color: var(--accent); }
"""
