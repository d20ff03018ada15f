#include "train/report_page.h"

namespace fathom::train {

const std::string_view kPageHead = R"page(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>)page";

const std::string_view kPageStyle = R"page(</title>
<style>
:root {
  --page: #f6f7f9; --card: #ffffff; --text: #16181d; --muted: #667085; --line: #e4e7ec; --grid: #eef0f3;
  --accent: #2563eb; --loss: #2563eb; --mtp: #c2660a; --eval: #0a8f5b; --bad: #d92d20;
  --low: 37,99,235; --mid: 243,244,247; --high: 217,83,20; --shadow: 0 1px 2px rgba(16,24,40,.06);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1116; --card: #161a21; --text: #e6e9ef; --muted: #8b94a5; --line: #262c36; --grid: #20262f;
    --accent: #6ea8fe; --loss: #6ea8fe; --mtp: #f5b04c; --eval: #4cc38a; --bad: #ff6b5e;
    --low: 72,140,255; --mid: 30,35,43; --high: 255,138,61; --shadow: none;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0; font-weight: 600; }
.state { font-size: 13px; padding: 2px 10px; border-radius: 99px; border: 1px solid var(--line); color: var(--muted); }
.state::before { content: ""; display: inline-block; width: 7px; height: 7px; border-radius: 50%;
  background: var(--eval); margin-right: 7px; vertical-align: 1px; }
.state.running::before { background: var(--mtp); }
.bar { height: 4px; border-radius: 4px; background: var(--line); margin: 16px 0 0; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); border-radius: 4px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr)); gap: 1px; margin: 20px 0 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.tiles div { background: var(--card); padding: 12px 14px; min-width: 0; }
.tiles dt, .tiles dd { margin: 0; }
.tiles dt { font-size: 12px; color: var(--muted); white-space: nowrap; }
.tiles dd { font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; letter-spacing: -.01em;
  white-space: nowrap; }
.tiles small { font-size: 12px; font-weight: 400; color: var(--muted); letter-spacing: 0; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 14px 2px 0; padding: 0; font-size: 13px; }
.facts div { min-width: 0; overflow-wrap: anywhere; }
.facts dt { display: inline; color: var(--muted); margin-right: 6px; }
.facts dd { display: inline; margin: 0; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; margin-top: 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px 12px;
  box-shadow: var(--shadow); min-width: 0; }
.wide, #charts .card:last-child:nth-child(even) { grid-column: 1 / -1; }
.top { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; margin-bottom: 8px; min-height: 28px; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 13px; color: var(--muted); }
.keys i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px; vertical-align: 3px; }
.tools { margin-left: auto; display: flex; gap: 6px; align-items: center; font-size: 13px; color: var(--muted); }
button, select { font: inherit; font-size: 13px; color: var(--muted); background: transparent;
  border: 1px solid var(--line); border-radius: 7px; padding: 2px 9px; cursor: pointer; }
select { background: var(--card); color: var(--text); }
button[aria-pressed=true] { color: var(--accent); border-color: var(--accent); }
button:focus-visible, select:focus-visible, input:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
input[type=range] { accent-color: var(--accent); width: 150px; }
output { font-variant-numeric: tabular-nums; color: var(--text); white-space: nowrap; }
svg, canvas { display: block; width: 100%; touch-action: pan-y; }
svg text { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
.none { color: var(--muted); font-size: 14px; padding: 24px 0; text-align: center; }
.note { color: var(--muted); font-size: 13px; margin: 8px 0 0; }
.scale { display: flex; align-items: center; gap: 8px; font-size: 12px; color: var(--muted); margin-top: 10px; }
.scale i { width: 130px; height: 8px; border-radius: 4px; background: linear-gradient(90deg,
  rgb(var(--low)), rgb(var(--mid)), rgb(var(--high))); border: 1px solid var(--line); }
#tip { position: fixed; left: 0; top: 0; z-index: 9; pointer-events: none; visibility: hidden; max-width: 240px;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 6px 10px; font-size: 12.5px;
  box-shadow: 0 6px 20px rgba(0,0,0,.18); font-variant-numeric: tabular-nums; }
#tip b { display: block; font-weight: 600; }
#tip i { display: inline-block; width: 8px; height: 8px; border-radius: 50%; margin-right: 6px; }
footer { margin-top: 28px; color: var(--muted); font-size: 12.5px; }
@media (max-width: 720px) {
  main { padding: 18px 12px 36px; }
  .grid { grid-template-columns: minmax(0, 1fr); gap: 12px; }
  .card { padding: 12px 12px 10px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  h1 { font-size: 20px; }
}
@media print { .tools { display: none; } .card { break-inside: avoid; } }
</style>
</head>
)page";

const std::string_view kPageBody = R"page(<body>
<main>
<header><h1 id="name"></h1><span class="state" id="state"></span></header>
<div class="bar" id="bar"><i></i></div>
<dl class="tiles" id="tiles"></dl>
<dl class="facts" id="facts"></dl>
<noscript><p class="note">The curves are drawn by a small script in this page; please allow it.</p></noscript>
<section class="grid" id="charts"></section>
<section class="grid" id="loads" hidden>
  <div class="card wide">
    <div class="top"><h2>Expert load by layer</h2>
      <div class="tools"><label for="load-step">step</label>
        <input type="range" id="load-step" min="0" value="0"><output id="load-step-text"></output></div></div>
    <canvas id="load-layers" role="img" aria-label="Load of each expert in each layer"></canvas>
    <div class="scale"><span>&frac14; of the mean</span><i></i><span>4 times</span></div>
  </div>
  <div class="card wide">
    <div class="top"><h2>Expert load over the run</h2>
      <div class="tools"><label for="load-layer">layer</label><select id="load-layer"></select></div></div>
    <canvas id="load-time" role="img" aria-label="Load of each expert over the run"></canvas>
    <div class="scale"><span>&frac14; of the mean</span><i></i><span>4 times</span></div>
  </div>
</section>
<footer>Written by Fathom. Pale lines are single steps, strong ones their moving average; a load of 1 is balance;
MaxVio is the largest load of any expert, less 1.</footer>
</main>
<div id="tip"></div>
<script type="application/json" id="data">
)page";

}  // namespace fathom::train
