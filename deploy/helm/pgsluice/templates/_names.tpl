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

{{/* The metadata of what lets the adapter kubernetes-secret ask the API of Kubernetes. */}}
{{- define "pgsluice.secretAccess" -}}
name: {{ .Release.Name }}-secret
namespace: {{ .Release.Namespace }}
labels:
  {{- include "pgsluice.labels" . | nindent 2 }}
{{- end }}

{{/* Whether the adapter kubernetes-secret is to be used: "true" or nothing. */}}
{{- define "pgsluice.changesSecrets" -}}
{{- with .Values.kubernetesSecret }}{{ if .secrets }}true{{ end }}{{ end }}
{{- end }}

{{/* The metadata of what lets the target's cluster be looked at. */}}
{{- define "pgsluice.clusterAccess" -}}
name: {{ .Release.Name }}-cluster
namespace: {{ .Values.cnpg.namespace | default .Release.Namespace }}
labels:
  {{- include "pgsluice.labels" . | nindent 2 }}
{{- end }}

{{/* Whether anything else asks the API of Kubernetes, another adapter or the Lease: "true" or nothing. */}}
{{- define "pgsluice.asksKubernetes" -}}
{{- $lease := .Values.lease.name }}
{{- with .Values.kubernetesTraffic }}{{ if or .services .deployments .statefulSets .poolers $lease }}true{{ end }}{{ end }}
{{- end }}
