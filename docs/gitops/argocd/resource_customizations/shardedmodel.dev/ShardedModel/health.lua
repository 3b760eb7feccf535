-- Health of a ShardedModel: what kstatus and Flux decide, in Argo CD's words.
-- Failed is Degraded, InProgress is Progressing, Current is Healthy; a model that was suspended
-- on purpose is Suspended.
local health = {status = "Progressing", message = "Waiting for the operator to look at it"}
local status = obj.status
if obj.metadata.deletionTimestamp ~= nil then
  health.message = "Being deleted"
  return health
end
-- A status that speaks of an older spec says nothing of this one.
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local ready = found.Ready
if ready == nil then
  return health
end
health.message = ready.message or ready.reason
if found.Stalled ~= nil and found.Stalled.status == "True" then
  health.status = "Degraded"
elseif status.phase == "Suspended" then
  health.status = "Suspended"
elseif found.Reconciling ~= nil and found.Reconciling.status == "True" then
  health.status = "Progressing"
elseif ready.status == "True" then
  health.status = "Healthy"
end
return health
