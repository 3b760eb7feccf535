{{- define "operator.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "operator.name" .) -}}
{{- end -}}

{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "operator.image" -}}
{{- if .Values.image.reference -}}
{{ .Values.image.reference }}
{{- else if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "operator.runtimeImage" -}}
{{- .Values.runtimeImage | default (printf "shardedmodel-runtime:%s" .Chart.AppVersion) -}}
{{- end -}}

{{- /* Whether the server has policy/v1. */ -}}
{{- define "operator.hasBudgets" -}}
{{- if semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version }}true{{ end -}}
{{- end -}}

{{- /* What the operator may do; docs/operating.md says why. No Secrets, no pods/exec, no wildcard. */ -}}
{{- define "operator.rules" -}}
- apiGroups: [shardedmodel.dev]
  resources: [shardedmodels]
  verbs: [list, watch, patch]
- apiGroups: [shardedmodel.dev]
  resources: [shardedmodels/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
{{- if include "operator.hasBudgets" . }}
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [endpoints]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create, patch]
{{- end -}}

{{- /* The Lease by which one of the replicas acts. A name cannot be part of a right to create. */ -}}
{{- define "operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "operator.name" . }}]
  verbs: [get, update]
{{- end -}}

{{- /* What selects the series of this release's pods. */ -}}
{{- define "operator.series" -}}
namespace="{{ .Release.Namespace }}", pod=~"{{ include "operator.name" . }}-.*"
{{- end -}}

{{- /* Settings of the operator; its test reads the same. */ -}}
{{- define "operator.environment" -}}
- {name: SHARDEDMODEL_RUNTIME_IMAGE, value: {{ include "operator.runtimeImage" . | quote }}}
- {name: SHARDEDMODEL_RUNTIME_IMAGE_PULL_POLICY, value: {{ .Values.runtimeImagePullPolicy }}}
- {name: SHARDEDMODEL_NAMESPACES, value: {{ join "," .Values.namespaces | quote }}}
- {name: SHARDEDMODEL_CACHE_HOST_PATHS, value: {{ join "," .Values.cacheHostPaths | quote }}}
- {name: SHARDEDMODEL_LEASE, value: {{ printf "%s/%s" .Release.Namespace (include "operator.name" .) }}}
- {name: SHARDEDMODEL_POD_DISRUPTION_BUDGETS, value: {{ .Values.podDisruptionBudget.models | quote }}}
- {name: SHARDEDMODEL_WORKERS, value: {{ .Values.workers | quote }}}
- {name: SHARDEDMODEL_RESYNC_SECONDS, value: {{ .Values.resyncSeconds | quote }}}
- {name: SHARDEDMODEL_PORT, value: "8080"}
- {name: SHARDEDMODEL_LOG_LEVEL, value: {{ .Values.logLevel }}}
- {name: SHARDEDMODEL_LOG_FORMAT, value: {{ .Values.logFormat }}}
{{- with .Values.extraEnv }}{{ toYaml . | nindent 0 }}{{ end }}
{{- end -}}

{{- define "operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
# The token of the ServiceAccount is readable for this group.
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
