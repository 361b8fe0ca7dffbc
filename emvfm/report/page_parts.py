"""The style sheet and the script of every report, as text to be placed inside the page."""

from __future__ import annotations

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root{--paper:#fbfbf9;--card:#fff;--ink:#1d2125;--soft:#5c656d;--line:#e0e2df;--accent:#0b6a8a;
--good:#1a7f4b;--caution:#9a6200;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1c2024;--ink:#e6e8ea;--soft:#9aa4ad;
--line:#31373d;--accent:#67c1e0;--good:#5fcf95;--caution:#e7b04a;--bad:#ff8a80}
figure img{filter:brightness(.93)}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:68rem;margin:0 auto;padding:clamp(1.25rem,4vw,3.5rem) clamp(1rem,4vw,2.5rem) 5rem}
header{margin-bottom:2rem}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.2;letter-spacing:-.015em;margin:0;font-weight:650;
text-wrap:balance}
h2{font-size:1.25rem;line-height:1.3;margin:3rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line);
font-weight:620}
p{max-width:44rem;margin:.6rem 0}
.subtitle{color:var(--soft);font-size:1.05rem;margin:.5rem 0 0}
nav{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;margin-top:1.2rem;font-size:.92rem}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
.verdict{display:flex;gap:.75rem;align-items:flex-start;max-width:none;background:var(--card);
padding:.85rem 1rem;margin:1rem 0;border:1px solid var(--line);
border-left:4px solid var(--tone);border-radius:6px;font-weight:520}
.verdict .sign{color:var(--tone);font-weight:700;min-width:1em;text-align:center}
.good{--tone:var(--good)}.caution{--tone:var(--caution)}.bad{--tone:var(--bad)}.plain{--tone:var(--accent)}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.2rem 0}
.numbers div{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem}
dt{color:var(--soft);font-size:.84rem;line-height:1.35}
dd{margin:.1rem 0 0;font-size:1.4rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:1.1rem 0;border:1px solid var(--line);border-radius:6px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:.7rem .9rem .3rem;font-size:.9rem}
th,td{padding:.45rem .9rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:break-word}
td:not(.n){min-width:7rem}
th{font-weight:600;white-space:nowrap;padding:0}
th button{all:unset;cursor:pointer;padding:.55rem .9rem;display:block;width:100%;box-sizing:border-box;
color:var(--soft);font-size:.85rem}
th.n button{text-align:right}
th button:hover,th[aria-sort] button{color:var(--ink)}
th button:focus-visible,a:focus-visible,summary:focus-visible,.scroll:focus-visible{
outline:2px solid var(--accent);outline-offset:-2px;border-radius:4px}
th[aria-sort=ascending] button::after{content:" ↑"}
th[aria-sort=descending] button::after{content:" ↓"}
.n{text-align:right;white-space:nowrap}
tbody tr:last-child td{border-bottom:0}
tbody tr:hover{background:color-mix(in srgb,var(--accent) 7%,transparent)}
figure{margin:1.4rem 0}
figure img{display:block;max-width:100%;height:auto;border:1px solid var(--line);border-radius:6px;
background:#fff;padding:.5rem}
figcaption{color:var(--soft);font-size:.9rem;margin-top:.5rem;max-width:44rem}
details{margin-top:3rem;border:1px solid var(--line);border-radius:6px;background:var(--card)}
summary{cursor:pointer;padding:.7rem 1rem;color:var(--soft);font-size:.92rem}
pre{margin:0;padding:.2rem 1rem 1rem;overflow-x:auto;
font:12.5px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace}
@media print{body{font-size:11pt}nav{display:none}main{max-width:none;padding:0}h2{break-after:avoid}
figure,.verdict,tr{break-inside:avoid}.scroll{overflow:visible}}
"""

#: Sorts a table by the column whose heading is pressed: numbers by value, empty cells last.
SCRIPT = """
document.querySelectorAll('th button').forEach(function(button){
  button.addEventListener('click',function(){
    var th=button.parentNode,table=th.closest('table'),body=table.tBodies[0],k=th.cellIndex;
    var numeric=th.classList.contains('n');
    var was=th.getAttribute('aria-sort');
    var up=was?was==='descending':!numeric;
    table.querySelectorAll('th').forEach(function(other){other.removeAttribute('aria-sort')});
    th.setAttribute('aria-sort',up?'ascending':'descending');
    Array.from(body.rows).map(function(row,i){
      var cell=row.cells[k],v=cell.dataset.v;
      return {row:row,i:i,empty:numeric&&v===undefined,key:numeric?Number(v):cell.textContent};
    }).sort(function(a,b){
      if(a.empty!==b.empty)return a.empty?1:-1;
      if(a.empty)return a.i-b.i;
      var d=numeric?a.key-b.key:a.key.localeCompare(b.key,undefined,{numeric:true});
      return d===0?a.i-b.i:(up?d:-d);
    }).forEach(function(item){body.appendChild(item.row)});
  });
});
"""
