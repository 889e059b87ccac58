"""The style sheet of a page: light and dark by the reader's setting, phones, print."""

from __future__ import annotations

# Okabe and Ito's colours, darkened on white and lightened on black until they stand out; lines also differ in dashes
# and marks, right and wrong also in sign, word and border.
CSS = (
    """
:root {
  color-scheme: light dark;
  --back: #ffffff; --panel: #f5f6f7; --text: #1a1d21; --soft: #565d66; --line: #d3d7dc; --grid: #e6e8eb;
  --right: #007a59; --wrong: #b84a00; --link: #00568a; --warn-back: #ffd84d; --warn-text: #1a1300;
  --s0: #0067a3; --s1: #c24f00; --s2: #007a59; --s3: #9b3f86; --s4: #55606b; --s5: #8a6d00; --s6: #2f8fc4;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --back: #14171a; --panel: #1f2327; --text: #e8eaed; --soft: #a8b0b9; --line: #41474e; --grid: #2c3136;
    --right: #35c796; --wrong: #ff8b45; --link: #7cc4f5; --warn-back: #ffd84d; --warn-text: #1a1300;
    --s0: #62b8f2; --s1: #ff9650; --s2: #35c796; --s3: #e39ad0; --s4: #b4bdc6; --s5: #e6c84a; --s6: #3f9fd8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
main, header, nav, footer { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 24px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 48px 0 8px; padding-top: 12px; border-top: 1px solid var(--line);
  scroll-margin-top: 48px; }
h3 { font-size: 1rem; margin: 24px 0 6px; }
p { margin: 8px 0; max-width: 75ch; }
a { color: var(--link); }
code, pre { font: 0.875rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--panel); padding: 10px 12px; border-radius: 4px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.banner { position: sticky; top: 0; z-index: 2; background: var(--warn-back); color: var(--warn-text);
  border-bottom: 2px solid var(--warn-text); padding: 7px 20px; text-align: center; font-weight: 600; }
.stamp { display: inline-block; vertical-align: 0.15em; background: var(--warn-back); color: var(--warn-text);
  border: 1px solid var(--warn-text); border-radius: 3px; padding: 0 6px; margin-left: 8px; font-size: 0.7rem;
  font-weight: 700; line-height: 1.6; letter-spacing: 0.04em; }
.lead { font-size: 1.05rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 12px 0 0; }
dl.facts { display: grid; grid-template-columns: fit-content(40%) minmax(0, 1fr); gap: 2px 16px; margin: 12px 0; }
dl.facts dt { color: var(--soft); overflow-wrap: anywhere; }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.note, figcaption, caption, .legend { color: var(--soft); font-size: 0.875rem; }
.missing { border: 1px dashed var(--soft); border-radius: 4px; padding: 8px 12px; color: var(--soft); }
.warning { border-left: 5px solid var(--warn-back); background: var(--panel); padding: 8px 12px; font-weight: 600; }
figure { margin: 0; }
footer { margin: 48px auto 32px; color: var(--soft); font-size: 0.875rem; }
/* tables */
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 12px 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 6px; overflow-wrap: anywhere; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); font-size: 0.875rem; }
tbody th { font-weight: 400; min-width: 5em; overflow-wrap: anywhere; }
tbody tr.group th { font-weight: 700; padding-top: 18px; border-bottom: 1px solid var(--line); }
tbody tr.group span { font-weight: 400; color: var(--soft); font-size: 0.875rem; margin-left: 8px; }
tbody tr.own { background: var(--panel); }
tbody tr.own th, tbody tr.own b { font-weight: 700; }
td b { font-weight: 600; display: inline-block; min-width: 2.9em; }
th small { display: block; color: var(--soft); font-size: 0.8rem; font-weight: 400; }
.interval { color: var(--soft); font-size: 0.875rem; white-space: nowrap; display: inline-block; min-width: 8em; }
td .note { white-space: nowrap; }
.whisker { width: 130px; height: 14px; vertical-align: middle; }
.whisker .rail { stroke: var(--grid); stroke-width: 1; }
.whisker .span { stroke: var(--s0); stroke-width: 2; }
.whisker .dot { fill: var(--s0); }
/* charts */
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 24px 32px;
  margin: 16px 0; }
.chart { max-width: 620px; }
.chart .name { font-weight: 600; margin: 0 0 4px; }
.chart > svg { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font-size: 12.5px; font-family: inherit; }
.chart .grid { stroke: var(--grid); stroke-width: 1; }
.chart .axis { stroke: var(--soft); stroke-width: 1; }
.chart .chosen { fill: none; stroke: var(--text); stroke-width: 2; }
.chart .drop { stroke: var(--text); stroke-width: 1; stroke-dasharray: 2 3; }
.chart text.chosen-text { fill: var(--text); stroke: var(--back); stroke-width: 4px; paint-order: stroke;
  font-weight: 600; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.band { stroke: none; opacity: 0.16; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; margin: 4px 0; }
.legend svg { width: 34px; height: 12px; vertical-align: middle; margin-right: 6px; }
"""
    + "\n".join(
        f".s{n} .line, .s{n} .mark {{ stroke: var(--s{n}); }} .s{n} .mark, .s{n} .band {{ fill: var(--s{n}); }}"
        for n in range(7)
    )
    + """
/* pictures */
.ships { display: flex; flex-wrap: wrap; gap: 16px 20px; margin: 16px 0; }
.strip { border: 1px solid var(--line); border-radius: 4px; padding: 8px 10px; max-width: 100%; }
.strip > figcaption { margin-bottom: 6px; color: var(--text); overflow-wrap: anywhere; }
.cells { display: flex; flex-wrap: wrap; gap: 8px; align-items: flex-start; }
.cell { width: 70px; }
.cell.wide { width: 140px; }
.cell .frame { display: flex; align-items: center; justify-content: center; background: var(--panel); height: 168px;
  border: 3px solid var(--line); border-radius: 3px; }
.cell.wide .frame { height: 140px; }
.frame img { display: block; max-width: 100%; max-height: 100%; }
.frame .gone { color: var(--text); font-size: 0.7rem; line-height: 1.25; padding: 2px; overflow: hidden;
  max-height: 100%; overflow-wrap: anywhere; }
.cell figcaption { font-size: 0.75rem; line-height: 1.3; overflow-wrap: anywhere; margin-top: 3px; }
.cell.generated .frame { border-style: dashed; border-color: var(--s3); }
.cell.right .frame { border-color: var(--right); }
.cell.wrong .frame { border-style: dotted; border-color: var(--wrong); }
.cell.source { margin-right: 12px; }
.verdict { font-weight: 700; white-space: nowrap; }
.verdict svg { width: 13px; height: 13px; vertical-align: -2px; margin-right: 3px; }
.verdict svg path { fill: none; stroke: currentColor; stroke-width: 2.6; }
.right .verdict { color: var(--right); }
.wrong .verdict { color: var(--wrong); }
@media (max-width: 600px) {
  body { font-size: 15px; }
  main, header, nav, footer { padding: 0 12px; }
  header { padding-top: 16px; }
  dl.facts { display: block; }
  dl.facts dd { margin-bottom: 6px; }
  .banner { padding: 6px 12px; font-size: 0.875rem; }
  .whisker { display: block; }
  th, td { padding-right: 8px; }
  .cells { gap: 6px 4px; }
  .cell { width: 54px; }
  .cell.wide { width: 104px; }
  .cell .frame { height: 128px; }
  .cell.wide .frame { height: 104px; }
  .cell.source { margin-right: 4px; }
  .cell figcaption { font-size: 0.65rem; }
}
@media print {
  body { font-size: 10.5pt; }
  .banner { position: static; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  tr, figure, caption, .strip { break-inside: avoid; }
  caption, thead, tr.group { break-after: avoid; }
  .charts { grid-template-columns: 1fr 1fr; gap: 16px 20px; }
  .interval { min-width: 0; }
  .whisker { width: 76px; }
  .ships { gap: 8px; }
  .strip { padding: 5px 6px; }
  .cells { gap: 4px; }
  .cell { width: 49px; }
  .cell.wide { width: 98px; }
  .cell .frame { height: 118px; }
  .cell.wide .frame { height: 98px; }
  .cell.source { margin-right: 4px; }
  .cell figcaption { font-size: 6.5pt; }
  .scroll { overflow: visible; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
)
