{{- define "pgsluice.labels" -}}
app.kubernetes.io/name: pgsluice
app.kubernetes.io/part-of: pgsluice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "pgsluice.selector" -}}
app.kubernetes.io/name: pgsluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pgsluice.metadata" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "pgsluice.labels" . | nindent 2 }}
{{- end }}

{{/* Whether anything asks the API of Kubernetes, an adapter or the Lease: "true" or nothing. */}}
{{- define "pgsluice.asksKubernetes" -}}
{{- $lease := .Values.lease.name }}
{{- with .Values.kubernetesTraffic }}{{ if or .services .deployments .statefulSets .poolers $lease }}true{{ end }}{{ end }}
{{- end }}
