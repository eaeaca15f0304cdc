/**
 * Removes what bqplot's Bars leaves behind: at every draw it takes its zero line out of the page
 * and puts a new one into a new group, but the old group stays (`draw` in its Bars.ts). After an
 * hour of training they would be hundreds of thousands, and every draw would search them all.
 */
export function removeLeftovers(root: ParentNode): void {
  for (const line of root.querySelectorAll(".zeroLine")) {
    const groups = line.parentElement?.parentElement?.children ?? [];
    for (const group of [...groups]) {
      if (group.tagName === "g" && !group.hasChildNodes()) group.remove();
    }
  }
}
