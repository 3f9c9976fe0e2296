"use strict";
(function () {
  var boxes = Array.from(document.querySelectorAll("#picture div"));
  var search = document.getElementById("search");
  var found = document.getElementById("found");
  var places = boxes.map(function (box) {
    return { box: box, left: parseFloat(box.style.left), width: parseFloat(box.style.width), top: parseFloat(box.style.top) };
  });

  // What is below or above the place that was clicked fills the whole width; the outermost shows all again.
  function show(to) {
    places.forEach(function (place) {
      var above = place.top < to.top && place.left <= to.left && place.left + place.width >= to.left + to.width - 0.0002;
      var inside = place.top >= to.top && place.left >= to.left - 0.0002 &&
        place.left + place.width <= to.left + to.width + 0.0002;
      place.box.classList.toggle("off", !above && !inside);
      place.box.style.left = above ? "0" : (place.left - to.left) * 100 / to.width + "%";
      place.box.style.width = above ? "100%" : place.width * 100 / to.width + "%";
    });
  }

  // The share of what is found: a place below one that is found already counts with that.
  function look() {
    var wanted = search.value.toLowerCase();
    var hits = places.filter(function (place) {
      var hit = wanted !== "" && place.box.textContent.toLowerCase().indexOf(wanted) >= 0;
      place.box.classList.toggle("hit", hit);
      return hit;
    });
    var end = -1;
    var share = 0;
    hits.sort(function (a, b) { return a.left - b.left || b.width - a.width; }).forEach(function (place) {
      if (place.left >= end - 0.0002) {
        share += place.width;
        end = place.left + place.width;
      }
    });
    found.textContent = wanted === "" ? "" : hits.length + " places, " + share.toFixed(1) + "% of the zombies";
  }

  places.forEach(function (place) {
    place.box.addEventListener("click", function () { show(place); });
  });
  search.addEventListener("input", look);
  document.getElementById("tools").hidden = false;
}());
