"use strict";
document.documentElement.classList.add("js");
for (const figure of document.querySelectorAll(".compare")) {
  const stage = figure.querySelector(".stage");
  const slider = stage.querySelector("input");
  const images = [...stage.querySelectorAll("img")];
  const names = [...stage.querySelectorAll(".who")];
  const choices = [...figure.querySelectorAll("select")];
  const show = () => {
    for (const { dataset, value } of choices) {
      for (const [i, image] of images.entries()) {
        image.classList.toggle(dataset.side, String(i) === value);
        names[i].classList.toggle(dataset.side, String(i) === value);
      }
    }
    // The picture on the right fills the stage; where both sides are one picture there is nothing to cut.
    const [left, right] = choices.map((choice) => choice.value);
    if (left === right) images[Number(left)].classList.remove("left");
  };
  const move = () => {
    stage.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} percent`);
  };
  for (const choice of choices) choice.addEventListener("change", show);
  slider.addEventListener("input", move);
  show();
  move();
}
