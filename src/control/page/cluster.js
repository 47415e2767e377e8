// The CloudNativePG cluster that is moved into, as its operator sees it.

import { byId, figures, moment, say, show } from "./dom.js";

/** Shows the cluster of a status; nothing where none is looked at. */
export function showCluster(cluster) {
  show(byId("cluster"), cluster !== null);
  if (cluster === null) return;
  const { problem, remedy, changing, seen_at: seenAt } = cluster;
  say(byId("cluster-title"), cluster.name === "" ? "Cluster" : `Cluster ${cluster.name}`);
  say(byId("cluster-note"), seenAt === null ? "It was not seen yet." : `As its operator saw it, ${moment(seenAt)}.`);
  const troubles = [
    changing === null ? null : `The target waits: ${changing}.`,
    problem === null ? null : `It cannot be looked at: ${problem}. ${remedy ?? ""}`,
  ].filter((trouble) => trouble !== null);
  say(byId("cluster-trouble"), troubles.join(" "));
  show(byId("cluster-trouble"), troubles.length > 0);
  figures(byId("cluster-figures"), [
    ["State", cluster.phase ?? "–"],
    ["Primary", cluster.current_primary ?? "–"],
    ["Timeline", cluster.timeline ?? "–"],
    ["Instances ready", `${cluster.ready_instances ?? "–"} of ${cluster.instances ?? "–"}`],
    ["Each commit waits for", cluster.synchronous_standbys === null ? "no standby" : `${cluster.synchronous_standbys} standby`],
    ["Backup", cluster.has_backup ? "there is one" : "none yet"],
  ]);
}
