"""The page's style sheet."""

CSS = """
:root {
  color-scheme: light dark;
  --ink:#1d2430; --muted:#5d6878; --grid:#e3e7ed; --paper:#f6f7f9; --card:#ffffff; --line:#dfe3ea; --accent:#c2410c;
  --teacher:#5b7a9d; --cooled:#2596be; --tau:#8e5bb5; --text:#2f7d4f; --shuffled:#98a1ad;
  --r1:#f9c58d; --r2:#f6a95c; --r3:#ef8a34; --r4:#e06c16; --r5:#c2410c;
  --other1:#b8417f; --other2:#7a7f2a; --other3:#4757c4; --other4:#8a5a3c;
  --visible:#c9d0d9; --distilled:#f08c3a; --revealed:#4fa56c;
  --good:#2f7d4f; --bad:#b3261e; --level:#9a6b00; --mask:#cfd5dd;
  --k0:#d9e4f0; --k1:#e2e6ea; --k2:#efe8dc; --k3:#fae6c9; --k4:#fddcae; --k5:#fdcb8c; --k6:#fab56a; --k7:#f59f4b;
}
@media (prefers-color-scheme: dark) { :root {
  --ink:#e6e9ee; --muted:#9aa5b4; --grid:#2b323c; --paper:#12161c; --card:#1a2028; --line:#2d3540; --accent:#ff9b57;
  --teacher:#8fb0d4; --cooled:#4cc3ea; --tau:#c39be3; --text:#6cc58f; --shuffled:#7c8794;
  --r1:#6e4727; --r2:#96592a; --r3:#c06c28; --r4:#e58032; --r5:#ff9b57;
  --other1:#ea85b8; --other2:#bcc158; --other3:#8e9cf5; --other4:#c99872;
  --visible:#46505d; --distilled:#d9792b; --revealed:#4a9d67;
  --good:#6cc58f; --bad:#ff8a80; --level:#e3b341; --mask:#3a434f;
  --k0:#2c4058; --k1:#37424f; --k2:#454137; --k3:#554429; --k4:#664720; --k5:#7a4c1b; --k6:#8f5218; --k7:#a85a16;
} }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
main, header.top, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.25rem; }
header.top { padding-top: 2.6rem; }
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .5rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 3.2rem 0 .6rem; padding-top: 1.1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .5rem; overflow-wrap: anywhere; }
h3 small { font-weight: 400; color: var(--muted); margin-left: .4rem; }
p, ul.findings, dl.terms { max-width: 46rem; }
.lede { color: var(--muted); font-size: 1.06rem; margin: 0; }
nav { margin: 1rem 0 0; font-size: .9rem; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 3px; }
.note, figcaption, .sub { color: var(--muted); font-size: .9rem; line-height: 1.5; }
.warn { border-left: 3px solid var(--level); padding: .1rem 0 .1rem .9rem; font-size: .93rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .85rem 1rem; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .86rem; line-height: 1.4; display: block; }
ul.findings { list-style: none; padding: 0; margin: 1rem 0; max-width: 54rem; }
ul.findings li { padding: .1rem 0 .1rem 1rem; border-left: 3px solid var(--grid); margin: 0 0 .8rem; }
ul.findings li.good { border-color: var(--good); } ul.findings li.bad { border-color: var(--bad); }
ul.findings li.level { border-color: var(--level); }
ul.findings li:first-child { font-size: 1.06rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.1rem;
  margin: 1rem 0; }
figure { margin: 0; min-width: 0; }
.figures > figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .9rem 1rem 1rem; }
.figures > figure.wide { grid-column: 1 / -1; }
@media (min-width: 56rem) { .figures > figure.wide { display: grid; align-items: center; gap: 1.6rem;
  grid-template-columns: minmax(0, 36rem) minmax(14rem, 1fr); } }
.figures svg { width: 100%; height: auto; display: block; margin-bottom: .5rem; max-width: 34rem; }
svg text { font-family: inherit; }
@media (max-width: 34rem) { svg text { font-size: 11px !important; } .figures > figure { padding: .6rem .6rem .8rem; }
  main, header.top, footer { padding-left: 1rem; padding-right: 1rem; } }
.keys, .legend { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; font-size: .9rem; }
.swatch::before { content: ""; display: inline-block; width: 1.1em; height: .28em; border-radius: 2px;
  background: var(--c); margin-right: .45em; vertical-align: .22em; }
.swatch.dash::before { background: repeating-linear-gradient(90deg, var(--c) 0 .32em, transparent .32em .5em); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin: 1rem 0 .6rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: .4rem .55rem; white-space: nowrap; border-bottom: 1px solid var(--grid);
  vertical-align: baseline; }
th { color: var(--muted); font-weight: 600; } thead th { border-bottom-color: var(--line); }
th.l, td.l { text-align: left; } tbody tr:last-child > * { border-bottom: 0; }
tr.group > td { border-top: 1px solid var(--line); }
td:first-child, th:first-child { padding-left: .9rem; } td:last-child, th:last-child { padding-right: .9rem; }
td small { color: var(--muted); font-size: .86em; } td .dot { display: inline-block; width: .62em; height: .62em;
  border-radius: 50%; background: var(--c); margin-right: .5em; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .84em; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .75rem .9rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
table.plain { width: auto; margin-top: .6rem; } table.plain th, table.plain td { text-align: left;
  white-space: normal; overflow-wrap: anywhere; }
dl.terms { max-width: none; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: .9rem 2rem; margin: 1rem 0 0; font-size: .94rem; }
dl.terms dt, dl.facts dt { font-weight: 600; } dl.terms dd { margin: 0; color: var(--muted); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem;
  margin: .6rem 0; }
dl.facts dd { margin: 0; color: var(--muted); overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--muted); font-size: .92rem; }
.samples { display: grid; gap: .9rem; margin: .9rem 0 1.3rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.sample { background: var(--card); border: 1px solid var(--line); border-top: 3px solid var(--muted);
  border-radius: 8px; padding: .7rem .95rem; }
.sample.teacher { border-top-color: var(--teacher); } .sample.student { border-top-color: var(--r5); }
.sample figcaption { font-weight: 600; color: var(--ink); margin-bottom: .35rem; }
  .sample figcaption span { font-weight: 400; color: var(--muted); display: block; font-size: .85em; }
blockquote { margin: 0; font: .95rem/1.6 Georgia, "Iowan Old Style", "Times New Roman", "DejaVu Serif", serif;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.drawn { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem;
  line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; }
.tok { background: var(--kc, var(--grid)); border-radius: 4px; padding: .14em 0; margin-right: 1px;
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.given { background: none; border-bottom: 2px solid var(--teacher); border-radius: 0; }
.k0{--kc:var(--k0)} .k1{--kc:var(--k1)} .k2{--kc:var(--k2)} .k3{--kc:var(--k3)} .k4{--kc:var(--k4)}
  .k5{--kc:var(--k5)} .k6{--kc:var(--k6)} .k7{--kc:var(--k7)}
.hidden { display: inline-block; width: calc(var(--n) * 1ch - 2px); height: .72em; background: var(--mask);
  border-radius: 3px; margin-right: 2px;
  vertical-align: -.02em; }
.snapshots { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  margin: .9rem 0 1.6rem; }
.snapshots p { margin: .2rem 0 0; max-width: none; font: .76rem/1.65 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.snapshots figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; }
.key { font-size: .88rem; color: var(--muted); }
footer { color: var(--muted); font-size: .86rem; padding-top: 2rem; padding-bottom: 3rem; }
@media print { body { background: #fff; } .figures > figure, .sample, .scroll { break-inside: avoid; }
  nav { display: none; } }
"""
