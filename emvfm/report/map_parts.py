"""The style sheet and the script of an interactive map, as text to be placed inside the page."""

from __future__ import annotations

__all__ = ["MAP_SCRIPT", "MAP_STYLE"]

MAP_STYLE = """
:root{--paper:#fbfbf9;--card:#fff;--ink:#1d2125;--soft:#5c656d;--line:#e0e2df;--accent:#0b6a8a;
--c0:#0072B2;--c1:#E69F00;--c2:#009E73;--c3:#D55E00;--c4:#56B4E9;--c5:#CC79A7;--none:#b9bfc4}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1c2024;--ink:#e6e8ea;--soft:#9aa4ad;
--line:#31373d;--accent:#67c1e0;--c0:#4fa8e0;--c1:#f0b429;--c2:#2cc79a;--c3:#f07f3c;--c4:#9bd3f5;--c5:#e39cc4;
--none:#545c63}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif}
main{max-width:82rem;margin:0 auto;padding:clamp(1rem,3vw,2rem)}
h1{font-size:clamp(1.25rem,3vw,1.7rem);line-height:1.25;margin:0;font-weight:640;letter-spacing:-.01em;
overflow-wrap:anywhere}
.subtitle,.remark{color:var(--soft);margin:.3rem 0 0;overflow-wrap:anywhere}
.remark{font-size:.9rem}
.bar{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:1rem 0 .6rem;font-size:.92rem}
.bar label{display:inline-flex;gap:.4rem;align-items:center;color:var(--soft)}
select,button{font:inherit;color:var(--ink);background:var(--card);border:1px solid var(--line);border-radius:6px;
padding:.25rem .6rem;min-height:2.1rem}
button{cursor:pointer}
input{accent-color:var(--accent);width:1.05rem;height:1.05rem}
:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
.stage{display:grid;grid-template-columns:minmax(0,1fr) 17.5rem;gap:1rem;align-items:start}
.plot{position:relative;background:var(--card);border:1px solid var(--line);border-radius:8px;overflow:hidden;
height:min(72vh,46rem);min-height:20rem}
#plot{display:block;width:100%;height:100%;touch-action:none;cursor:crosshair}
#legend{display:flex;flex-wrap:wrap;gap:.4rem;margin:.7rem 0 0;align-items:center;font-size:.9rem;min-height:2.1rem}
#legend button{display:inline-flex;gap:.45rem;align-items:center;max-width:100%;overflow-wrap:anywhere;text-align:left}
#legend button[aria-pressed=false]{opacity:.45;text-decoration:line-through}
.dot{flex:none;width:.8rem;height:.8rem;border-radius:50%}
.scale{width:12rem;height:.8rem;border-radius:4px}
aside{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.9rem;min-height:12rem}
#crop{display:block;width:100%;aspect-ratio:1;border-radius:5px;background:var(--paper)}
.hint{color:var(--soft);margin:0}
dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.15rem .8rem;margin:.7rem 0 0;font-size:.9rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.keys{color:var(--soft);font-size:.85rem;margin:.8rem 0 0}
[hidden]{display:none!important}
@media (max-width:48rem){.stage{grid-template-columns:minmax(0,1fr)}.plot{height:50vh}
aside{display:grid;grid-template-columns:9rem minmax(0,1fr);gap:.9rem;align-items:start;min-height:9rem}
aside dl{margin:0}aside .hint{grid-column:1/-1}}
"""

MAP_SCRIPT = """
(function(){
'use strict';
var data=JSON.parse(document.getElementById('data').textContent);
var el=function(id){return document.getElementById(id)};
var canvas=el('plot'),ctx=canvas.getContext('2d'),crop=el('crop');
var n=data.image.length,hidden={},selected=-1,pinned=false,view=null,loaded={};
var across=0,up=Math.min(1,data.axes.length-1),mode='domain';
var VIRIDIS=[[68,1,84],[72,40,120],[62,74,137],[49,104,142],[38,130,142],[31,158,137],[53,183,121],[110,206,88],
[181,222,43],[253,231,37]];
var dark=matchMedia('(prefers-color-scheme: dark)'),RAMP;  // the end that the background swallows is left out
var css=function(name){return getComputedStyle(document.documentElement).getPropertyValue(name).trim()};
function ramp(t){
  var s=Math.max(0,Math.min(1,t))*(RAMP.length-1),i=Math.min(RAMP.length-2,Math.floor(s)),f=s-i;
  return 'rgb('+RAMP[i].map(function(v,k){return Math.round(v+(RAMP[i+1][k]-v)*f)}).join(',')+')';
}
function value(i){
  var image=data.images[data.image[i]];
  return mode==='foreground'?data.foreground[i]:image[mode];
}
function distinct(key){
  var seen=[];
  data.images.forEach(function(m){if(seen.indexOf(m[key])<0)seen.push(m[key])});
  return seen;
}
var order=[];
for(var k=0;k<n;k++)order.push(k);
for(var seed=7,k=n-1;k>0;k--){  // a fixed shuffle, so that no domain is drawn over all others
  seed=(seed*1103515245+12345)%2147483648;
  var j=seed%(k+1),swap=order[k];order[k]=order[j];order[j]=swap;
}
var colours=[],low=0,high=1;
function recolour(){
  RAMP=dark.matches?VIRIDIS.slice(2):VIRIDIS.slice(0,9);
  var legend=el('legend'),palette=['--c0','--c1','--c2','--c3','--c4','--c5'].map(css),none=css('--none');
  legend.textContent='';
  if(mode==='domain'||mode==='split'){
    var names=distinct(mode);
    names.forEach(function(name,k){
      var button=document.createElement('button'),dot=document.createElement('span'),key=mode+'\\u0000'+name;
      dot.className='dot';dot.style.background=palette[k%palette.length];
      button.type='button';button.appendChild(dot);button.appendChild(document.createTextNode(name));
      button.setAttribute('aria-pressed',String(!hidden[key]));
      button.addEventListener('click',function(){
        hidden[key]=!hidden[key];button.setAttribute('aria-pressed',String(!hidden[key]));draw();
      });
      legend.appendChild(button);
    });
    colours=data.image.map(function(m){return palette[names.indexOf(data.images[m][mode])%palette.length]});
  }else{
    var all=[];
    for(var i=0;i<n;i++){var v=value(i);if(v!==null)all.push(v)}
    low=all.reduce(function(a,b){return Math.min(a,b)},Infinity);
    high=all.reduce(function(a,b){return Math.max(a,b)},-Infinity);
    colours=data.image.map(function(_,i){
      var v=value(i);
      return v===null?none:ramp(high>low?(v-low)/(high-low):.5);
    });
    var scale=document.createElement('span'),stops=[];
    for(var s=0;s<=8;s++)stops.push(ramp(s/8));
    scale.className='scale';scale.style.background='linear-gradient(90deg,'+stops.join(',')+')';
    legend.append(mode+' '+shown(low)+' ',scale,' '+shown(high));
    if(all.length<n)legend.append(' · '+(n-all.length)+' without');
  }
  draw();
}
function shown(v){
  if(v===null||v===undefined||v==='')return '–';
  return typeof v==='number'&&!Number.isInteger(v)?Number(v.toPrecision(3)).toString():String(v);
}
function visible(i){
  var m=data.images[data.image[i]];
  return !hidden['domain\\u0000'+m.domain]&&!hidden['split\\u0000'+m.split];
}
function fit(){
  var xs=data.coordinates[across],ys=data.coordinates[up],box=[Infinity,Infinity,-Infinity,-Infinity];
  for(var i=0;i<n;i++){
    box=[Math.min(box[0],xs[i]),Math.min(box[1],ys[i]),Math.max(box[2],xs[i]),Math.max(box[3],ys[i])];
  }
  var w=canvas.clientWidth,h=canvas.clientHeight;
  var scale=Math.min((w-56)/((box[2]-box[0])||1),(h-56)/((box[3]-box[1])||1));
  view={s:scale,x:w/2-scale*(box[0]+box[2])/2,y:h/2+scale*(box[1]+box[3])/2};
}
function px(i){return view.x+view.s*data.coordinates[across][i]}
function py(i){return view.y-view.s*data.coordinates[up][i]}
var waiting=false;
function draw(){
  if(waiting)return;
  waiting=true;
  requestAnimationFrame(function(){waiting=false;paint()});
}
function paint(){
  var ratio=window.devicePixelRatio||1,w=canvas.clientWidth,h=canvas.clientHeight;
  if(canvas.width!==Math.round(w*ratio)||canvas.height!==Math.round(h*ratio)){
    canvas.width=Math.round(w*ratio);canvas.height=Math.round(h*ratio);
  }
  if(!view)fit();
  ctx.setTransform(ratio,0,0,ratio,0,0);
  ctx.clearRect(0,0,w,h);
  if(el('path').checked&&!data.centres)paths();
  var radius=n>6000?1.8:n>1500?2.6:n>300?3.6:4.8;
  ctx.globalAlpha=n>1500?.7:.88;
  order.forEach(function(i){
    if(!visible(i))return;
    var x=px(i),y=py(i);
    if(x<-9||y<-9||x>w+9||y>h+9)return;
    ctx.fillStyle=colours[i];
    ctx.beginPath();ctx.arc(x,y,radius,0,6.2832);ctx.fill();
  });
  ctx.globalAlpha=1;
  if(selected>=0&&visible(selected)){
    ctx.beginPath();ctx.arc(px(selected),py(selected),radius+4,0,6.2832);
    ctx.strokeStyle=css('--ink');ctx.lineWidth=2;ctx.stroke();
  }
  ctx.fillStyle=css('--soft');ctx.font='12px system-ui,sans-serif';
  ctx.textAlign='right';ctx.fillText(data.axes[across]+' →',w-10,h-10);
  ctx.save();ctx.translate(16,10);ctx.rotate(-Math.PI/2);ctx.fillText(data.axes[up]+' →',0,0);ctx.restore();
}
var stacks={};
if(!data.centres)data.image.forEach(function(m,i){
  var image=data.images[m];
  if(image.z===null)return;
  var key=image.domain+'\\u0000'+image.volume;
  (stacks[key]=stacks[key]||[]).push(i);
});
Object.keys(stacks).forEach(function(key){
  stacks[key].sort(function(a,b){return data.images[data.image[a]].z-data.images[data.image[b]].z});
});
function paths(){
  ctx.lineWidth=1;ctx.globalAlpha=.45;
  Object.keys(stacks).forEach(function(key){
    var members=stacks[key].filter(visible);
    for(var k=1;k<members.length;k++){
      ctx.strokeStyle=colours[members[k]];
      ctx.beginPath();ctx.moveTo(px(members[k-1]),py(members[k-1]));
      ctx.lineTo(px(members[k]),py(members[k]));ctx.stroke();
    }
  });
}
function nearest(x,y,reach){
  if(!view)fit();  // a pointer may come before the first frame
  var best=-1,least=reach*reach;
  for(var i=0;i<n;i++){
    var dx=px(i)-x,dy=py(i)-y,d=dx*dx+dy*dy;
    if(d<least&&visible(i)){least=d;best=i}
  }
  return best;
}
function choose(i){
  if(i===selected)return;
  selected=i;
  card();draw();
}
function card(){
  var facts=el('facts');
  facts.textContent='';
  el('hint').hidden=selected>=0;crop.hidden=selected<0;
  if(selected<0)return;
  var m=data.images[data.image[selected]];
  var rows=[['sample',m.id],['domain',m.domain],['volume',m.volume],['z',m.z],['split',m.split]];
  if(data.foreground)rows.push(['foreground',data.foreground[selected]]);
  if(data.centres)rows.push(['patch','row '+data.cells[0][selected]+', column '+data.cells[1][selected]]);
  rows.push([data.axes[across],data.coordinates[across][selected]]);
  if(up!==across)rows.push([data.axes[up],data.coordinates[up][selected]]);
  rows.forEach(function(row){
    var dt=document.createElement('dt'),dd=document.createElement('dd');
    dt.textContent=row[0];dd.textContent=shown(row[1]);facts.append(dt,dd);
  });
  picture(data.image[selected],selected);
}
function picture(index,point){
  var m=data.images[index],pen=crop.getContext('2d');
  crop.width=crop.height=480;
  pen.clearRect(0,0,480,480);
  if(!m.picture){
    pen.fillStyle=css('--soft');pen.font='26px system-ui,sans-serif';pen.textAlign='center';
    pen.fillText('no picture in this file',240,245);
    return;
  }
  var image=loaded[index];
  if(!image){
    image=loaded[index]=new Image();
    image.onload=function(){if(selected===point)picture(index,point)};
    image.src='data:image/jpeg;base64,'+m.picture;
  }
  if(!image.complete||!image.naturalWidth)return;
  var W=image.naturalWidth,H=image.naturalHeight,side=Math.max(W,H),x=(W-side)/2,y=(H-side)/2,ph=0,pw=0;
  if(data.centres){
    ph=m.patch[0]*H;pw=m.patch[1]*W;
    side=Math.min(Math.max(ph,pw)*data.context,Math.max(W,H));
    x=data.centres[1][point]*W-side/2;y=data.centres[0][point]*H-side/2;
  }
  var s=480/side;
  pen.imageSmoothingQuality='high';
  pen.drawImage(image,-x*s,-y*s,W*s,H*s);
  if(data.centres){
    var at=[(data.centres[1][point]*W-pw/2-x)*s,(data.centres[0][point]*H-ph/2-y)*s,pw*s,ph*s];
    pen.lineWidth=7;pen.strokeStyle='rgba(0,0,0,.65)';pen.strokeRect.apply(pen,at);
    pen.lineWidth=3;pen.strokeStyle='#ffd23f';pen.strokeRect.apply(pen,at);
  }
}
function zoom(factor,x,y){
  if(!view)fit();
  view.x=x+(view.x-x)*factor;view.y=y+(view.y-y)*factor;view.s*=factor;draw();
}
var fingers={},moved=0;
function local(e){var r=canvas.getBoundingClientRect();return [e.clientX-r.left,e.clientY-r.top]}
canvas.addEventListener('pointerdown',function(e){
  try{canvas.setPointerCapture(e.pointerId)}catch(gone){}
  fingers[e.pointerId]=local(e);moved=0;
});
canvas.addEventListener('pointermove',function(e){
  var at=local(e),was=fingers[e.pointerId],ids=Object.keys(fingers);
  if(!was){if(!pinned)choose(nearest(at[0],at[1],16));return}
  moved+=Math.abs(at[0]-was[0])+Math.abs(at[1]-was[1]);
  if(ids.length===2){
    var other=fingers[ids[0]===String(e.pointerId)?ids[1]:ids[0]];
    var before=Math.hypot(was[0]-other[0],was[1]-other[1]),now=Math.hypot(at[0]-other[0],at[1]-other[1]);
    if(before>0&&now>0)zoom(now/before,(at[0]+other[0])/2,(at[1]+other[1])/2);
  }else{if(!view)fit();view.x+=at[0]-was[0];view.y+=at[1]-was[1];draw()}
  fingers[e.pointerId]=at;
});
function lift(e){
  var at=fingers[e.pointerId];
  delete fingers[e.pointerId];
  if(!at||moved>6||e.type!=='pointerup')return;
  var found=nearest(at[0],at[1],e.pointerType==='touch'?28:16);
  pinned=found>=0;selected=-2;choose(found);
}
canvas.addEventListener('pointerup',lift);
canvas.addEventListener('pointercancel',lift);
canvas.addEventListener('wheel',function(e){
  e.preventDefault();
  var at=local(e);
  zoom(Math.exp(-e.deltaY*(e.deltaMode?0.05:0.0015)),at[0],at[1]);
},{passive:false});
function reset(){view=null;pinned=false;draw()}
canvas.addEventListener('dblclick',reset);
el('reset').addEventListener('click',reset);
canvas.addEventListener('keydown',function(e){
  var step={ArrowRight:1,ArrowLeft:-1}[e.key],x=canvas.clientWidth/2,y=canvas.clientHeight/2;
  if(step){
    for(var k=1,i=selected<0&&step<0?0:selected;k<=n;k++){
      i=(i+step+n)%n;
      if(visible(i)){pinned=true;choose(i);break}
    }
  }else if(e.key==='+'||e.key==='=')zoom(1.3,x,y);
  else if(e.key==='-')zoom(1/1.3,x,y);
  else if(e.key==='0')reset();
  else if(e.key==='Escape'){pinned=false;choose(-1)}
  else return;
  e.preventDefault();
});
function options(select,names,chosen){
  names.forEach(function(name,k){
    var option=document.createElement('option');
    option.value=k;option.textContent=name;option.selected=k===chosen;select.appendChild(option);
  });
}
options(el('across'),data.axes,across);options(el('up'),data.axes,up);
el('axes').hidden=data.axes.length<3;
el('joined').hidden=!Object.keys(stacks).length;
el('across').addEventListener('change',function(){across=Number(this.value);view=null;card();draw()});
el('up').addEventListener('change',function(){up=Number(this.value);view=null;card();draw()});
var ways=['domain'];
if(distinct('z').some(function(z){return z!==null}))ways.push('z');
if(data.foreground)ways.push('foreground');
if(distinct('split').length>1)ways.push('split');
options(el('colour'),ways,0);
el('colour').addEventListener('change',function(){mode=ways[Number(this.value)];recolour()});
el('path').addEventListener('change',draw);
window.addEventListener('resize',function(){view=null;draw()});
dark.addEventListener('change',function(){recolour();card()});
recolour();
})();
"""
